"""A folder with a model's accuracy, confusions, calibration and mistakes: ``report.md`` and its images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from dhvt.data.preprocess import Preprocess, preprocess_image
from dhvt.data.sources import ImageSource
from dhvt.evaluation.calibration import BINS, reliability, softmax
from dhvt.evaluation.fonts import choose_fonts
from dhvt.evaluation.metrics import Evaluation, Outputs, confusion_matrix

MISTAKES = 24
"""Images in the figure of mistakes."""

_MAX_NAMED_CLASSES = 40  # more would overlap on the confusion matrix's axes


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
) -> Path:
    """Writes the report and returns the path of its ``report.md``.

    Args:
        folder: created if it does not exist; the files of an older report are replaced.
        title: the heading.
        source, preprocess: the images that ``outputs`` belongs to, and how they were prepared.
        evaluation: of ``outputs`` at ``temperature``.
        facts: rows of the first table, such as the command and the versions.
        history: a training's ``metrics.jsonl``, for the learning curves.
    """
    folder.mkdir(parents=True, exist_ok=True)
    classes = [_printable(name) for name in source.classes]
    families, missing = choose_fonts(classes)
    labels = [str(label) if missing & set(name) else name for label, name in enumerate(classes)]
    matrix = confusion_matrix(outputs.logits, outputs.labels)
    with _style(families):
        figures = {
            "confusion": ("Confusion matrix", _draw_confusion(matrix, labels)),
            "reliability": ("Calibration", _draw_reliability(outputs, temperature)),
            "mistakes": ("The most confident mistakes", _draw_mistakes(outputs, temperature, source, preprocess, labels)),
        }
        if history:
            figures = {"curves": ("Learning curves", _draw_curves(history))} | figures
        for name, (_, figure) in figures.items():
            figure.savefig(folder / f"{name}.png", bbox_inches="tight")
    lines = [f"# {title}", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {_cell(value)} |" for name, value in {**_results(evaluation, temperature), **facts}.items()]
    for name, (heading, _) in figures.items():
        lines += ["", f"## {heading}", "", f"![{heading}]({name}.png)"]
    lines += ["", "## Classes", "", *_class_table(matrix, classes), *_legend(labels, classes), ""]
    path = folder / "report.md"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def _style(families: list[str]) -> AbstractContextManager[None]:
    """matplotlib's settings while the images are drawn and saved."""
    return mpl.rc_context(
        {
            "figure.dpi": 110,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "font.size": 9,
            "font.family": families,
            "text.parse_math": False,  # a class may be named $5
        }
    )


def _legend(labels: Sequence[str], classes: Sequence[str]) -> list[str]:
    """The names of the classes that are numbers in the plots."""
    numbered = [f"{label} is {name}" for label, name in zip(labels, classes, strict=True) if label != name]
    if not numbered:
        return []
    return [
        "",
        "In the images above some classes are numbers, because no installed font has the characters of their names: "
        f"{', '.join(numbered)}. Fonts such as Noto Sans CJK (fonts-noto-cjk on Debian and Ubuntu) have those of Chinese, "
        "Japanese and Korean.",
    ]


def _printable(name: str) -> str:
    """A class name that can be encoded as UTF-8; a folder's name may hold bytes of another encoding."""
    return name.encode(errors="replace").decode()


def _results(evaluation: Evaluation, temperature: float) -> dict[str, str]:
    return {
        "top-1": f"{evaluation.top1:.2f} %",
        "top-5": f"{evaluation.top5:.2f} %",
        "balanced accuracy": f"{evaluation.balanced_accuracy:.2f} %",
        "macro-F1": f"{evaluation.macro_f1:.2f} %",
        "log loss": f"{evaluation.nll:.4f}",
        "calibration error": f"{evaluation.ece:.2f} % at temperature {temperature:.3f}",
        "images": f"{evaluation.images} measured, {evaluation.skipped} unreadable",
    }


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _class_table(matrix: NDArray[np.int64], classes: Sequence[str]) -> list[str]:
    """One row a class, the lowest recall first."""
    lines = ["| class | images | recall | precision | most often taken for |", "|---|---|---|---|---|"]
    counts, predicted, correct = matrix.sum(axis=1), matrix.sum(axis=0), matrix.diagonal()
    recall = np.where(counts, correct / np.maximum(counts, 1), 2.0)  # those without an image come last
    wrong = matrix - np.diag(correct)
    for label in np.argsort(recall, kind="stable"):
        other = int(wrong[label].argmax())
        taken = f"{_cell(classes[other])} ({wrong[label, other]})" if wrong[label, other] else ""
        precision = f"{correct[label] / predicted[label]:.1%}" if predicted[label] else "–"
        found = f"{recall[label]:.1%}" if counts[label] else "–"
        lines.append(f"| {_cell(classes[label])} | {counts[label]} | {found} | {precision} | {taken} |")
    return lines


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height))
    return figure, figure.subplots()


def _draw_curves(history: Sequence[Mapping[str, Any]]) -> Figure:
    figure = Figure(figsize=(8, 3))
    left, right = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in history]
    left.plot(epochs, [row["train_loss"] for row in history], marker=".")
    left.set(xlabel="epoch", ylabel="training loss")
    right.plot(epochs, [row["train_top1"] for row in history], marker=".", label="training, as augmented")
    right.plot(epochs, [row["val_top1"] for row in history], marker=".", label="validation")
    right.set(xlabel="epoch", ylabel="top-1, %")
    right.legend(frameon=False)
    return figure


def _draw_confusion(matrix: NDArray[np.int64], classes: Sequence[str]) -> Figure:
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    side = min(3 + 0.35 * len(classes), 14)
    figure, axes = _axes(side, side)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted class", ylabel="right class")
    if len(classes) <= _MAX_NAMED_CLASSES:
        axes.set_xticks(range(len(classes)), classes, rotation=90)
        axes.set_yticks(range(len(classes)), classes)
    if len(classes) <= 20:
        for (row, column), count in np.ndenumerate(matrix):
            if count:
                color = "white" if share[row, column] > 0.5 else "black"
                axes.text(column, row, str(count), ha="center", va="center", color=color, fontsize=7)
    return figure


def _draw_reliability(outputs: Outputs, temperature: float) -> Figure:
    figure, axes = _axes(4, 4)
    axes.plot([0, 1], [0, 1], color="0.7", linestyle="--")
    for divisor, label in ((1.0, "as trained"), (temperature, f"at temperature {temperature:.2f}, as served")):
        bins = reliability(outputs.logits / divisor, outputs.labels)
        filled = bins.share > 0
        axes.plot(bins.confidence[filled], bins.accuracy[filled], marker="o", markersize=4, label=label)
    axes.set(xlabel=f"score of the predicted class ({BINS} bins)", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    axes.legend(frameon=False)
    return figure


def _draw_mistakes(
    outputs: Outputs, temperature: float, source: ImageSource, preprocess: Preprocess, classes: Sequence[str]
) -> Figure:
    scores = softmax(outputs.logits / temperature)
    predicted = scores.argmax(axis=1)
    wrong = np.flatnonzero(predicted != outputs.labels)
    worst = wrong[np.argsort(-scores[wrong, predicted[wrong]], kind="stable")][:MISTAKES]
    columns = 6
    rows = max(-(-len(worst) // columns), 1)
    figure = Figure(figsize=(10, 1.9 * rows))
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, place in zip(grid.flat, worst, strict=False):
        axes.imshow(preprocess_image(source.read(int(outputs.indices[place])), preprocess))
        right, other = classes[outputs.labels[place]], classes[predicted[place]]
        axes.set_title(f"{right}\nnot {other} ({scores[place, predicted[place]]:.0%})", fontsize=8)
    if not len(worst):
        grid[0, 0].text(0, 0.5, "none")
    return figure
