"""Plots of what a model with reference images promises: prediction sets, and which images are known."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from dhvt.confidence.coverage import STATED
from dhvt.confidence.known import NoveltyIndex, p_values
from dhvt.confidence.rejection import STATED as REJECTS
from dhvt.confidence.rejection import possible_rejects
from dhvt.confidence.sets import find_rank, find_threshold, nonconformity
from dhvt.confidence.shares import wilson_interval
from dhvt.evaluation.calibration import softmax
from dhvt.evaluation.promises import Promised

COVERAGE = 0.95
"""Of the plot by class."""

_MOST_CLASSES = 40  # of the plot by class: those that are covered least
_SIZES = ("1", "2", "3", "4", "5 or more")


def draw_promises(promised: Promised, names: Sequence[str]) -> dict[str, tuple[str, Figure]]:
    """Heading and plot by the name of its file, of whatever the reference allows.

    Args:
        names: of the classes, as plots can show them.
    """
    measured = promised.measured
    scores = nonconformity(softmax(promised.logits / promised.temperature))
    ordered = np.sort(measured.true_score)
    figures = {}
    coverages = [coverage for coverage in STATED if find_rank(len(ordered), coverage) <= len(ordered)]
    if coverages:
        figures["sets"] = ("Labels in a prediction set", _draw_sizes(scores, ordered, coverages))
    if COVERAGE in coverages:
        covered = scores[np.arange(len(scores)), promised.labels] <= find_threshold(ordered, COVERAGE)
        heading = f"Right label in the set, by class, at {100 * COVERAGE:g} %"
        figures["coverage"] = (heading, _draw_classes(covered, promised.labels, names))
    if measured.novelty is not None and measured.index is not None:
        figures["known"] = ("Known or not", _draw_known(promised, measured.novelty, NoveltyIndex(measured.index)))
    return figures


def _draw_known(promised: Promised, reference: NDArray[np.float64], index: NoveltyIndex) -> Figure:
    """Histograms of how strange the images are, and the share that is rejected."""
    ordered = np.sort(reference)
    groups = {"of the reference's kind": promised.logits} | (
        {} if promised.unknown is None else {"of other kinds": promised.unknown}
    )
    novelty = {name: index.score_many(logits) for name, logits in groups.items()}
    possible = possible_rejects(len(ordered))
    figure = Figure(figsize=(6, 3.4))
    axes = figure.subplots()
    edges = np.linspace(0, np.quantile(np.concatenate(list(novelty.values())), 0.995), 50).tolist()
    for (name, values), color in zip(novelty.items(), ("C0", "C3"), strict=False):
        p = p_values(ordered, values)
        shares = (
            ", ".join(f"{(p <= reject).mean():.1%} at {reject:g}" for reject in possible) or "none, too few reference images"
        )
        weights = np.full(len(values), 1 / len(values))
        label = f"{len(values):,} images {name}: rejected {shares}"
        axes.hist(np.minimum(values, edges[-1]), edges, weights=weights, alpha=0.6, color=color, label=label)
    for reject in possible:
        axes.axvline(
            find_threshold(ordered, 1 - reject), color="0.3", linestyle="-" if reject == REJECTS[0] else "--", linewidth=1
        )
    axes.set(xlabel="novelty, higher for stranger images (lines: above these reject=0.01 and 0.05 reject)", ylabel="share")
    figure.legend(*axes.get_legend_handles_labels(), frameon=False, loc="lower center", bbox_to_anchor=(0.5, 0.98))
    return figure


def _draw_sizes(scores: NDArray[np.float64], ordered: NDArray[np.float64], coverages: Sequence[float]) -> Figure:
    """How many of the images have one label in their set, two, and so on: a bar for each coverage."""
    figure = Figure(figsize=(6, 0.6 + 0.45 * len(coverages)))
    axes = figure.subplots()
    colors = mpl.colormaps["Blues"](np.linspace(0.9, 0.2, len(_SIZES)))
    for row, coverage in enumerate(coverages):
        sizes = (scores <= find_threshold(ordered, coverage)).sum(axis=1)
        shares = np.bincount(np.minimum(sizes, len(_SIZES)), minlength=len(_SIZES) + 1)[1:] / len(sizes)
        starts = np.cumsum(shares) - shares
        for place, (share, start) in enumerate(zip(shares, starts, strict=True)):
            axes.barh(row, share, left=start, color=colors[place], label=None if row else _SIZES[place])
    axes.set_yticks(range(len(coverages)), [f"{100 * coverage:g} %" for coverage in coverages])
    axes.set(xlim=(0, 1), xlabel="share of the images", ylabel="coverage")
    figure.legend(
        *axes.get_legend_handles_labels(), frameon=False, ncols=len(_SIZES), loc="lower center", bbox_to_anchor=(0.5, 0.95)
    )
    return figure


def _draw_classes(covered: NDArray[np.bool_], labels: NDArray[np.int64], names: Sequence[str]) -> Figure:
    """The share of each class's images whose set has the right label, with a 95 % interval (Wilson's)."""
    images = np.bincount(labels, minlength=len(names))
    share = np.bincount(labels, weights=covered, minlength=len(names)) / np.maximum(images, 1)
    shown = np.flatnonzero(images)
    shown = shown[np.argsort(share[shown], kind="stable")][:_MOST_CLASSES][::-1]
    low, high = wilson_interval(share[shown], images[shown])
    figure = Figure(figsize=(6, 1 + 0.22 * len(shown)))
    axes = figure.subplots()
    axes.axvline(COVERAGE, color="0.7", linestyle="--")
    errors = np.maximum([share[shown] - low, high - share[shown]], 0)
    axes.errorbar(share[shown], range(len(shown)), xerr=errors, fmt="o", markersize=4, elinewidth=1)
    axes.set_yticks(range(len(shown)), [f"{names[label]} ({images[label]:,})" for label in shown.tolist()])
    axes.set(
        xlabel="share of the class's images (in brackets), with 95 % interval", xlim=(min(low.min(), COVERAGE) - 0.02, 1.005)
    )
    return figure
