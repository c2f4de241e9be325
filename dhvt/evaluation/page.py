"""``report.html``: a report as one page with thumbnails, which loads nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from dhvt.data.decode import decode_rgb
from dhvt.data.inspection.markup import THUMBNAIL, embed, text, thumbnail
from dhvt.data.levels import WhiteLevels
from dhvt.data.sources import ImageSource
from dhvt.evaluation.suspects import Prediction

_STYLE = """
:root{--line:#8884;--dim:#666}
body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}
h1{margin:0 0 1rem;font-size:1.6rem}h2{margin:2.2rem 0 .6rem;font-size:1.2rem}.dim{color:var(--dim)}
.figures{display:grid;grid-template-columns:repeat(auto-fill,minmax(8rem,1fr));gap:.7rem;margin:1rem 0}
.figure{border:1px solid var(--line);border-radius:8px;padding:.6rem .8rem}
.figure b{display:block;font-size:1.2rem;white-space:nowrap}
.note{border-left:5px solid #d9822b;padding:.3rem .8rem;background:#d9822b14;border-radius:4px}
.images{display:flex;flex-wrap:wrap;gap:1rem}
figure{margin:0;width:9.5rem}figure img{height:7rem;width:9.5rem;object-fit:contain;background:#8882;border-radius:4px}
figcaption{font-size:.78rem;line-height:1.35;overflow-wrap:anywhere}.bad{color:#b3261e}
table{border-collapse:collapse;width:100%}
td,th{padding:.2rem .8rem .2rem 0;text-align:left;vertical-align:top;overflow-wrap:anywhere;border-bottom:1px solid var(--line)}
td:first-child{white-space:normal;min-width:8rem}
td.n,th.n{text-align:right;white-space:nowrap}.bar{height:.6rem;background:#3b6fb6;border-radius:2px;margin-top:.45rem}
.plots{display:flex;flex-wrap:wrap;gap:1rem;align-items:flex-start}.plots div{max-width:100%}.plots img{max-width:100%}
"""


class ClassRow(NamedTuple):
    """One class: recall and precision between 0 and 1, None without images; the class that it is most often taken for."""

    name: str
    images: int
    recall: float | None
    precision: float | None
    taken_for: str | None
    taken_count: int


class PageContent(NamedTuple):
    """What the page shows.

    Args:
        figures: headline numbers, by name.
        facts: rows of the last table.
        plots: heading and PNG file of each plot.
        legend: the names of classes that are numbers in the plots, in words; empty where none are.
        mistakes, suspects: those that are shown; ``mistake_count`` and ``suspect_count`` are all.
    """

    title: str
    note: str
    figures: Mapping[str, str]
    facts: Mapping[str, str]
    plots: Sequence[tuple[str, Path]]
    legend: str
    rows: Sequence[ClassRow]
    classes: Sequence[str]
    mistakes: Sequence[Prediction]
    mistake_count: int
    suspects: Sequence[Prediction]
    suspect_count: int


def build_page(content: PageContent, source: ImageSource, white: WhiteLevels) -> str:
    """The page's HTML; ``white`` is the model's, for images of more than 8 bits."""
    numbers = "".join(
        f"<div class=figure><span class=dim>{text(name)}</span><b>{text(value)}</b></div>"
        for name, value in content.figures.items()
    )
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        f"<title>{text(content.title)}</title><style>{_STYLE}</style><h1>{text(content.title)}</h1>",
        f"<p class=note>{text(content.note)}</p>" if content.note else "",
        f"<div class=figures>{numbers}</div>",
        f"<h2>Suspicious labels ({_shown(content.suspects, content.suspect_count)})</h2>",
        "<p class=dim>Another class is as likely as for its own images, and likelier than the label: look whether the label is "
        "wrong.</p>",
        *_images(content.suspects, content.classes, source, white),
        f"<h2>The most confident mistakes ({_shown(content.mistakes, content.mistake_count)})</h2>",
        *_images(content.mistakes, content.classes, source, white),
        "<h2>Classes</h2>",
        *_table(content.rows),
        "<div class=plots>",
        *(
            f"<div><h2>{text(heading)}</h2><img alt='' src='{embed(path.read_bytes(), 'png')}'></div>"
            for heading, path in content.plots
        ),
        "</div>",
        f"<p class=dim>{text(content.legend)}</p>" if content.legend else "",
        "<h2>How it came about</h2><table>",
        *(f"<tr><td>{text(name)}<td>{text(value)}" for name, value in content.facts.items()),
        "</table>",
    ]
    return "\n".join(parts)


def _shown(shown: Sequence[Prediction], total: int) -> str:
    return f"{total:,}" if len(shown) == total else f"{len(shown)} of {total:,}"


def _images(
    predictions: Sequence[Prediction], classes: Sequence[str], source: ImageSource, white: WhiteLevels
) -> Iterator[str]:
    if not predictions:
        yield "<p>None."
        return
    yield "<div class=images>"
    for found in predictions:
        yield (
            f"<figure>{_thumbnail(source, found.place, white)}<figcaption>{text(source.name(found.place))}<br>"
            f"true <b>{text(classes[found.true])}</b> ({found.true_probability:.0%})<br>"
            f"predicted <b class=bad>{text(classes[found.predicted])}</b> ({found.confidence:.0%})</figcaption></figure>"
        )
    yield "</div>"


def _thumbnail(source: ImageSource, index: int, white: WhiteLevels) -> str:
    return thumbnail(lambda: decode_rgb(source.read(index), at_least=(THUMBNAIL, THUMBNAIL), white=white))


def _table(rows: Sequence[ClassRow]) -> Iterator[str]:
    yield "<table><tr><th>class<th class=n>images<th class=n>recall<th><th class=n>precision<th>most often taken for"
    for row in rows:
        bar = "" if row.recall is None else f"<div class=bar style='width:{100 * row.recall:.0f}%'></div>"
        taken = f"{text(row.taken_for)} ({row.taken_count})" if row.taken_for is not None else ""
        yield (
            f"<tr><td>{text(row.name)}<td class=n>{row.images:,}<td class=n>{percent(row.recall)}<td style='width:25%'>{bar}"
            f"<td class=n>{percent(row.precision)}<td>{taken}"
        )
    yield "</table>"


def percent(share: float | None) -> str:
    """``97.3%``; a dash for None."""
    return "–" if share is None else f"{share:.1%}"
