"""Prediction sets: the labels among which the right one is as often as promised, by split conformal prediction.

A nonconformity score says how badly a label fits an image. Of N labelled images that the model has not seen, the score of the
right label is known; a new image's right label has a score of at most the k-th smallest of them, k = ⌈(N + 1) · coverage⌉, with
a probability of at least the coverage, whatever the model is worth. That holds on average over reference and new images of the
same kind, not for each image, and for each class only where it has its own threshold. Angelopoulos and Bates 2021, arXiv
2107.07511.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

_ROUNDING = 1e-9
"""Of ``(N + 1) · coverage``, which is a whole number where 20 · 0.95 is meant."""


def nonconformity(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """How badly each label fits, ``(N, classes)``: 0 for the most likely one, otherwise 1 less its probability.

    That is LAC (Sadinle et al. 2019) but for the most likely label, which is so in every set: an empty set tells nothing.

    Args:
        probabilities: ``(N, classes)``.
    """
    scores = 1 - probabilities
    scores[np.arange(len(scores)), probabilities.argmax(axis=1)] = 0
    return scores


def find_rank(images: int, coverage: float) -> int:
    """Which of the sorted scores of so many reference images is the threshold, from 1; above ``images`` there is none."""
    return max(math.ceil((images + 1) * coverage - _ROUNDING), 1)


def least_images(coverage: float) -> int:
    """The fewest reference images that a coverage needs: 19 for 0.95."""
    return max(math.ceil(coverage / (1 - coverage) - _ROUNDING), 1)


def largest_coverage(images: int) -> float:
    """The largest coverage for which so many reference images are enough, rounded down to six digits."""
    return math.floor(1e6 * images / (images + 1)) / 1e6


def find_threshold(scores: NDArray[np.float64], coverage: float) -> float:
    """The nonconformity up to which labels are in the set; infinite where the images are too few for this coverage.

    Args:
        scores: ``(N,)`` ascending, of the reference images' right labels.
        coverage: between 0 and 1.
    """
    rank = find_rank(len(scores), coverage)
    return float(scores[rank - 1]) if rank <= len(scores) else math.inf


def find_class_thresholds(
    scores: NDArray[np.float64], labels: NDArray[np.integer], classes: int, coverage: float
) -> NDArray[np.float64]:
    """A threshold for each class, ``(classes,)``, so that the coverage holds within each (Vovk 2012, arXiv 1209.2673).

    Classes with too few reference images for that share one, of their images together; it is infinite where these are too few.
    So the coverage holds on average over these classes, and over all. With the threshold of all images it would not: where
    frequent classes have lower ones of their own, what they were covered beyond the promise no longer makes up for the others.

    Args:
        scores: ``(N,)``, of the reference images' right labels.
        labels: ``(N,)``, these labels.
    """
    is_small = np.bincount(labels, minlength=classes) < least_images(coverage)
    shared = find_threshold(np.sort(scores[is_small[labels]]), coverage)
    own = (find_threshold(np.sort(scores[labels == label]), coverage) for label in range(classes))
    return np.where(is_small, shared, list(own))


def choose_labels(scores: NDArray[np.float64], thresholds: NDArray[np.float64] | float) -> NDArray[np.intp]:
    """Which labels are in the set of one image: their places among ``scores``, the first always among them.

    Args:
        scores: ``(classes,)``, probabilities, descending.
        thresholds: one for all labels, or one for each in the order of the scores.
    """
    fits = 1 - scores <= thresholds
    fits[0] = True
    return np.flatnonzero(fits)
