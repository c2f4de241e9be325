"""``report.html``: an inspection as one page with thumbnails, which loads nothing from elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from dhvt.data.decode import decode
from dhvt.data.inspection.facts import to_visible_rgb
from dhvt.data.inspection.finding import Finding, Level
from dhvt.data.inspection.findings import describe_splits
from dhvt.data.inspection.inspection import CheckedImage, Inspection
from dhvt.data.inspection.markup import THUMBNAIL, text, thumbnail
from dhvt.data.splits import WHOLE
from dhvt.data.text import count

MOST_LINES = 200
"""Names shown of a finding; ``check.json`` has all."""

MOST_GROUPS, MOST_IN_GROUP = 24, 8
"""Groups of a finding, and images of a group, that are shown."""

_EXAMPLES = 6  # images shown of each class
_MOST_CLASSES = 40  # of which examples are shown
_BADGES: dict[Level, str] = {"fix": "must be fixed", "look": "worth a look", "note": "noted"}
_COLORS = {"train": "#3b6fb6", "val": "#d9822b", "test": "#4a9b5c"}

_STYLE = """
:root{color-scheme:light dark;--line:#8884;--dim:#777}
body{font:15px/1.5 system-ui,sans-serif;max-width:68rem;margin:2rem auto;padding:0 1rem}
h1{margin:0 0 .2rem;font-size:1.6rem}h2{margin:2.2rem 0 .6rem;font-size:1.2rem}h3{margin:0;font-size:1rem}
.dim{color:var(--dim)}
.finding{border:1px solid var(--line);border-left-width:5px;border-radius:6px;padding:.7rem 1rem;margin:.7rem 0}
.fix{border-left-color:#c0392b}.look{border-left-color:#d9822b}.note{border-left-color:#8888}
.badge{float:right;font-size:.8rem;color:var(--dim)}p{margin:.3rem 0}
.groups{display:flex;flex-wrap:wrap;gap:.7rem;margin-top:.5rem}
.group{display:flex;flex-wrap:wrap;gap:.5rem;padding:.5rem;border:1px solid var(--line);border-radius:6px}
figure{margin:0;width:8.4rem}figure img{height:7rem;width:8.4rem;object-fit:contain;background:#8882;border-radius:4px}
figcaption{font-size:.75rem;line-height:1.3;overflow-wrap:anywhere}
ul{margin:.3rem 0;padding-left:1.2rem;overflow-wrap:anywhere}summary{cursor:pointer;color:var(--dim)}
table{border-collapse:collapse;width:100%}td,th{padding:.15rem .6rem .15rem 0;text-align:left;vertical-align:middle}
td.n{text-align:right;white-space:nowrap;width:4rem}td.b{width:20%}
.bar{height:.75rem;border-radius:2px;min-width:1px}
.strip{display:flex;gap:.25rem}.strip img{height:2.6rem;width:2.6rem;object-fit:cover;border-radius:3px}
"""


def build_page(inspection: Inspection, findings: Sequence[Finding], advice: Sequence[str]) -> str:
    """The page's HTML."""
    pressing = Counter(finding.level for finding in findings)
    summary = f"must be fixed: {pressing['fix']}, worth a look: {pressing['look']}"
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        f"<title>dhvt check: {text(inspection.data)}</title><style>{_STYLE}</style>",
        f"<h1>{text(inspection.data)}</h1><p class=dim>{' · '.join(map(text, describe_splits(inspection)))}</p>",
        f"<h2>What was found: {summary}</h2>",
        *map(_finding, findings),
        "<h2>Advice</h2><ul>",
        *(f"<li>{text(line)}" for line in advice),
        "</ul><h2>Classes</h2>",
        *_classes(inspection),
    ]
    return "\n".join(parts)


def _finding(finding: Finding) -> str:
    parts = [f"<section class='finding {finding.level}'><span class=badge>{_BADGES[finding.level]}</span>"]
    parts.append(f"<h3>{text(finding.title)}</h3>")
    if finding.advice:
        parts.append(f"<p>{text(finding.advice)}</p>")
    if finding.lines:
        items = "".join(f"<li>{text(line)}" for line in finding.lines[:MOST_LINES])
        is_open = " open" if finding.level == "fix" or len(finding.lines) <= 5 else ""
        parts.append(f"<details{is_open}><summary>{_listed(len(finding.lines))}</summary><ul>{items}</ul></details>")
    if finding.groups:
        parts.append(f"<div class=groups>{''.join(map(_group, finding.groups[:MOST_GROUPS]))}</div>")
    if len(finding.groups) > MOST_GROUPS:
        parts.append(f"<p class=dim>and {count(len(finding.groups) - MOST_GROUPS, 'more group')}; check.json has all.</p>")
    return "".join(parts) + "</section>"


def _listed(number: int) -> str:
    return f"all {number:,}" if number <= MOST_LINES else f"the first {MOST_LINES} of {number:,}; check.json has all"


def _group(group: Sequence[CheckedImage]) -> str:
    shown = _spread(group)
    figures = []
    for image in shown:
        split = "" if image.split == WHOLE else f" <span class=dim>{text(image.split)}</span>"
        size = f"{image.facts.width}×{image.facts.height}"
        figures.append(
            f"<figure>{_thumbnail(image)}<figcaption><b>{text(image.label)}</b>{split} {size}<br>"
            f"{text(image.source.name(image.index))}</figcaption></figure>"
        )
    more = len(group) - len(shown)
    return f"<div class=group>{''.join(figures)}{f'<p class=dim>and {more:,} more</p>' if more else ''}</div>"


def _spread(group: Sequence[CheckedImage]) -> list[CheckedImage]:
    """The images of a group that are shown: of each split and class the first, then the others."""
    seen: set[tuple[str, str]] = set()
    first: list[CheckedImage] = []
    others: list[CheckedImage] = []
    for image in group:
        (others if (image.split, image.label) in seen else first).append(image)
        seen.add((image.split, image.label))
    return (first + others)[:MOST_IN_GROUP]


def _thumbnail(image: CheckedImage) -> str:
    size = (THUMBNAIL, THUMBNAIL)
    return thumbnail(lambda: to_visible_rgb(decode(image.source.read(image.index), at_least=size)))


def _classes(inspection: Inspection) -> Iterator[str]:
    """A table with a bar for each split and class, and examples."""
    counts = inspection.class_counts
    names = sorted({name for split in counts.values() for name in split})
    most = max((number for split in counts.values() for number in split.values()), default=1) or 1
    examples = _examples(inspection) if len(names) <= _MOST_CLASSES else {}
    yield "<table><tr><th>class" + "".join(f"<th class=dim>{'' if split == WHOLE else text(split)}<th>" for split in counts)
    for name in names:
        yield f"<tr><td>{text(name)}"
        for split, numbers in counts.items():
            style = f"width:{100 * numbers[name] / most:.1f}%;background:{_COLORS.get(split, _COLORS['train'])}"
            yield f"<td class=n>{numbers[name]:,}<td class=b><div class=bar style='{style}'></div>"
        if examples:
            yield f"<td><div class=strip>{''.join(map(_thumbnail, examples.get(name, [])))}</div>"
    yield "</table>"


def _examples(inspection: Inspection) -> dict[str, list[CheckedImage]]:
    """Some images of each class of the training split, evenly spaced."""
    images: dict[str, list[CheckedImage]] = {}
    for image in inspection.readable:
        if image.split == inspection.training_split:
            images.setdefault(image.label, []).append(image)
    return {name: found[:: max(len(found) // _EXAMPLES, 1)][:_EXAMPLES] for name, found in images.items()}
