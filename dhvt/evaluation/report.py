"""A folder with a model's accuracy, confusions, calibration and mistakes: ``report.md``, ``report.html`` and their files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dhvt.data.preprocess import Preprocess
from dhvt.data.sources import ImageSource
from dhvt.data.text import printable
from dhvt.evaluation.figures import (
    MAX_NAMED_CLASSES,
    draw_confusion,
    draw_curves,
    draw_mistakes,
    draw_reliability,
    figure_style,
)
from dhvt.evaluation.fonts import choose_fonts
from dhvt.evaluation.metrics import Evaluation, Outputs, confusion_matrix
from dhvt.evaluation.page import ClassRow, PageContent, build_page, percent
from dhvt.evaluation.predictions import write_predictions
from dhvt.evaluation.promise_figures import draw_promises
from dhvt.evaluation.promises import Promised
from dhvt.evaluation.suspects import MOST, Prediction, find_mistakes, find_suspicious_labels

_MARKDOWN = re.compile(r"([\\`*_\[\]<>|#&~])")


def write_report(
    folder: Path,
    *,
    title: str,
    source: ImageSource,
    preprocess: Preprocess,
    outputs: Outputs,
    evaluation: Evaluation,
    temperature: float,
    facts: Mapping[str, str],
    history: Sequence[Mapping[str, Any]] = (),
    note: str = "",
    promised: Promised | None = None,
) -> Path:
    """Writes the report and returns the path of its ``report.md``; beside it are ``report.html`` and ``predictions.parquet``.

    Args:
        folder: created if it does not exist; the files of an older report are replaced.
        title: the heading.
        source, preprocess: the images that ``outputs`` belongs to, and how they were prepared.
        evaluation: of ``outputs`` at ``temperature``.
        facts: rows of the table, such as the command and the versions.
        history: a training's ``metrics.jsonl``, for the learning curves.
        note: what a reader must know of the figures, such as what else the images were used for.
        promised: a model's reference, and what is measured against it; for more plots.
    """
    folder.mkdir(parents=True, exist_ok=True)
    classes = [printable(name) for name in source.classes]
    mistakes, suspects = find_mistakes(outputs, temperature), find_suspicious_labels(outputs, temperature)
    names = [printable(source.name(mistake.place)) for mistake in mistakes[:MOST]]
    families, missing = choose_fonts([*classes, *names])
    names = ["".join("?" if letter in missing else letter for letter in name) for name in names]
    labels = [str(label) if missing & set(name) else name for label, name in enumerate(classes)]
    matrix = confusion_matrix(outputs.logits, outputs.labels)
    with figure_style(families):
        figures = {
            "confusion": ("Confusion matrix", draw_confusion(matrix, labels)),
            "reliability": ("Calibration", draw_reliability(outputs, temperature)),
            "mistakes": ("The most confident mistakes", draw_mistakes(mistakes[:MOST], names, source, preprocess, labels)),
        }
        if history:
            figures = {"curves": ("Learning curves", draw_curves(history))} | figures
        if promised is not None:
            figures |= draw_promises(promised, labels)
        for name, (_, figure) in figures.items():
            figure.savefig(folder / f"{name}.png", bbox_inches="tight")
    content = PageContent(
        title=title,
        note=note,
        figures=_results(evaluation, temperature, len(classes)),
        facts={**facts, "every image's prediction": write_predictions(folder, source, outputs, temperature).name},
        legend=_legend(labels, classes),
        plots=[(heading, folder / f"{name}.png") for name, (heading, _) in figures.items() if name != "mistakes"],
        rows=_class_rows(matrix, classes),
        classes=classes,
        mistakes=mistakes[:MOST],
        mistake_count=len(mistakes),
        suspects=suspects[:MOST],
        suspect_count=len(suspects),
    )
    (folder / "report.html").write_text(build_page(content, source, preprocess.white), encoding="utf-8")
    path = folder / "report.md"
    headings = {name: heading for name, (heading, _) in figures.items()}
    path.write_text("\n".join([*_markdown(content, headings, source), ""]), encoding="utf-8")
    return path


def _markdown(content: PageContent, headings: Mapping[str, str], source: ImageSource) -> Iterator[str]:
    """The lines of ``report.md``."""
    yield from (f"# {_plain(content.title)}", "")
    if content.note:
        yield from (_plain(content.note), "")
    yield from ("| | |", "|---|---|")
    yield from (f"| {_plain(name)} | {_plain(value)} |" for name, value in {**content.figures, **content.facts}.items())
    for name, heading in headings.items():
        yield from ("", f"## {heading}", "", f"![{heading}]({name}.png)")
        if name == "mistakes":
            yield from ("", *_prediction_table(content.mistakes, content.classes, source))
    yield from (
        "",
        "## Suspicious labels",
        "",
        "Another class is as likely as for its own images, and likelier than the label.",
        "",
    )
    yield from _prediction_table(content.suspects, content.classes, source)
    yield from ("", "## Classes", "", "| class | images | recall | precision | most often taken for |", "|---|---|---|---|---|")
    for row in content.rows:
        taken = f"{_plain(row.taken_for)} ({row.taken_count})" if row.taken_for is not None else ""
        yield f"| {_plain(row.name)} | {row.images} | {percent(row.recall)} | {percent(row.precision)} | {taken} |"
    if content.legend:
        yield from ("", _plain(content.legend))


def _prediction_table(predictions: Sequence[Prediction], classes: Sequence[str], source: ImageSource) -> Iterator[str]:
    if not predictions:
        yield "None."
        return
    yield from ("| file | true | predicted |", "|---|---|---|")
    for found in predictions:
        yield (
            f"| {_plain(source.name(found.place))} | {_plain(classes[found.true])} ({found.true_probability:.0%}) "
            f"| {_plain(classes[found.predicted])} ({found.confidence:.0%}) |"
        )


def _plain(text: str) -> str:
    """A text without meaning in Markdown: names may hold anything."""
    return _MARKDOWN.sub(r"\\\1", printable(text))


def _legend(labels: Sequence[str], classes: Sequence[str]) -> str:
    """The names of the classes that are numbers in the plots, and why they are; empty where none are."""
    if len(classes) > MAX_NAMED_CLASSES:
        listed = ", ".join(f"{label} is {name}" for label, name in enumerate(classes))
        return f"In the confusion matrix classes are numbers, because there are more than {MAX_NAMED_CLASSES}: {listed}."
    numbered = [f"{label} is {name}" for label, name in zip(labels, classes, strict=True) if label != name]
    if not numbered:
        return ""
    return (
        "In the plots some classes are numbers, because no installed font has the characters of their names: "
        f"{', '.join(numbered)}. Fonts such as Noto Sans CJK (fonts-noto-cjk on Debian and Ubuntu) have those of Chinese, "
        "Japanese and Korean."
    )


def _results(evaluation: Evaluation, temperature: float, classes: int) -> dict[str, str]:
    return {
        "top-1": f"{evaluation.top1:.2f} %",
        **({"top-5": f"{evaluation.top5:.2f} %"} if classes > 5 else {}),
        "balanced accuracy": f"{evaluation.balanced_accuracy:.2f} %",
        "macro-F1": f"{evaluation.macro_f1:.2f} %",
        "log loss": f"{evaluation.nll:.4f}",
        "calibration error": f"{evaluation.ece:.2f} % ({evaluation.ece_low:.1f} to {evaluation.ece_high:.1f} %)",
        "temperature": f"{temperature:.3f}",
        "images": f"{evaluation.images:,}",
        **({"unreadable": f"{evaluation.skipped:,}"} if evaluation.skipped else {}),
    }


def _class_rows(matrix: NDArray[np.int64], classes: Sequence[str]) -> list[ClassRow]:
    """One row a class, the lowest recall first; those without an image come last."""
    counts, predicted, correct = matrix.sum(axis=1), matrix.sum(axis=0), matrix.diagonal()
    recall = np.where(counts, correct / np.maximum(counts, 1), 2.0)
    wrong = matrix - np.diag(correct)
    rows = []
    for label in np.argsort(recall, kind="stable"):
        other = int(wrong[label].argmax())
        rows.append(
            ClassRow(
                name=classes[label],
                images=int(counts[label]),
                recall=float(recall[label]) if counts[label] else None,
                precision=float(correct[label] / predicted[label]) if predicted[label] else None,
                taken_for=classes[other] if wrong[label, other] else None,
                taken_count=int(wrong[label, other]),
            )
        )
    return rows
