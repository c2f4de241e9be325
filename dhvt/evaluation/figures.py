"""The figures of a report: learning curves, confusion matrix, calibration and mistakes, drawn by matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from dhvt.confidence.scores import BINS
from dhvt.confidence.shares import wilson_interval
from dhvt.data.preprocess import Preprocess, preprocess_image
from dhvt.data.sources import ImageSource
from dhvt.errors import ImageError
from dhvt.evaluation.calibration import reliability
from dhvt.evaluation.metrics import Outputs
from dhvt.evaluation.suspects import Prediction

MAX_NAMED_CLASSES = 40
"""Classes that the confusion matrix names; more would overlap on its axes, which have their numbers then."""

_TITLE_LENGTH = 24  # characters below an image


def figure_style(families: list[str]) -> AbstractContextManager[None]:
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


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height))
    return figure, figure.subplots()


def draw_curves(history: Sequence[Mapping[str, Any]]) -> Figure:
    figure = Figure(figsize=(8, 3))
    left, right = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in history]
    for axes, figure_of in ((left, "loss"), (right, "top1")):
        axes.plot(epochs, [row[f"train_{figure_of}"] for row in history], marker=".", label="training, as augmented")
        axes.plot(epochs, [row.get(f"val_{figure_of}", np.nan) for row in history], marker=".", label="validation")
    left.set(xlabel="epoch", ylabel="loss")
    right.set(xlabel="epoch", ylabel="top-1, %")
    right.legend(frameon=False)
    return figure


def draw_confusion(matrix: NDArray[np.int64], classes: Sequence[str]) -> Figure:
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    side = min(3 + 0.35 * len(classes), 14)
    figure, axes = _axes(side, side)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted class", ylabel="true class")
    if len(classes) <= MAX_NAMED_CLASSES:
        axes.set_xticks(range(len(classes)), classes, rotation=90)
        axes.set_yticks(range(len(classes)), classes)
    if len(classes) <= 20:
        for (row, column), count in np.ndenumerate(matrix):
            if count:
                color = "white" if share[row, column] > 0.5 else "black"
                axes.text(column, row, str(count), ha="center", va="center", color=color, fontsize=7)
    return figure


def draw_reliability(outputs: Outputs, temperature: float) -> Figure:
    figure, axes = _axes(4, 4)
    axes.plot([0, 1], [0, 1], color="0.7", linestyle="--")
    for divisor, label in ((1.0, "as trained"), (temperature, f"at temperature {temperature:.2f}, as served")):
        bins = reliability(outputs.logits / divisor, outputs.labels)
        filled = bins.share > 0
        accuracy = bins.accuracy[filled]
        low, high = wilson_interval(accuracy, np.rint(bins.share[filled] * len(outputs.labels)).astype(np.int64))
        errors = np.maximum([accuracy - low, high - accuracy], 0)
        axes.errorbar(bins.confidence[filled], accuracy, yerr=errors, marker="o", markersize=4, elinewidth=1, label=label)
    label = f"score of the predicted class ({BINS} bins, with 95 % intervals)"
    axes.set(xlabel=label, ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    axes.legend(frameon=False)
    return figure


def draw_mistakes(
    mistakes: Sequence[Prediction],
    names: Sequence[str],
    source: ImageSource,
    preprocess: Preprocess,
    classes: Sequence[str],
) -> Figure:
    """The images as the model sees them, each with its name, its true and its predicted class."""
    columns = 6
    rows = max(-(-len(mistakes) // columns), 1)
    figure = Figure(figsize=(11, 2.3 * rows))
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, mistake, name in zip(grid.flat, mistakes, names, strict=False):
        try:
            axes.imshow(preprocess_image(source.read(mistake.place), preprocess))
        except ImageError:  # removed since it was measured
            axes.text(0.5, 0.5, "cannot be read", ha="center")
        true, predicted = _shorten(classes[mistake.true]), _shorten(classes[mistake.predicted])
        axes.set_title(f"{_shorten(name)}\ntrue {true}\npredicted {predicted} ({mistake.confidence:.0%})", fontsize=7)
    if not mistakes:
        grid[0, 0].text(0, 0.5, "none")
    return figure


def _shorten(text: str) -> str:
    """The end of a text that is too long: of a path, the file's name."""
    return text if len(text) <= _TITLE_LENGTH else f"…{text[1 - _TITLE_LENGTH :]}"
