"""Calibration error, and the temperature that scales logits so that a score of 0.8 is right eight times in ten.

Guo et al. 2017, "On Calibration of Modern Neural Networks", arXiv 1706.04599.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dhvt.confidence.scores import Reliability, bin_scores, error_interval

FOLDS = 5
PRIOR = 0.5
"""Images that count as wrong beside those measured, see :func:`fit_temperature`."""

_TEMPERATURES = (0.05, 20.0)  # beyond, the model is not worth calibrating


def softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Probabilities of ``(…, classes)`` logits."""
    exponents = np.exp(np.asarray(logits, dtype=np.float64) - logits.max(axis=-1, keepdims=True))
    probabilities: NDArray[np.float64] = exponents / exponents.sum(axis=-1, keepdims=True)
    return probabilities


def reliability(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> Reliability:
    """Accuracy against confidence, see :func:`dhvt.confidence.scores.bin_scores`.

    Args:
        logits: ``(N, classes)``.
        labels: ``(N,)``.
    """
    probabilities = softmax(logits)
    return bin_scores(probabilities.max(axis=1), probabilities.argmax(axis=1) == labels)


def expected_calibration_error(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> float:
    """Mean distance, 0 to 1, between confidence and accuracy over the bins."""
    return reliability(logits, labels).error


def calibration_error_interval(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> tuple[float, float]:
    """Where the calibration error of endless images like these may lie, see :func:`dhvt.confidence.scores.error_interval`."""
    return error_interval(reliability(logits, labels), len(labels))


def negative_log_likelihood(
    logits: NDArray[np.floating], labels: NDArray[np.int64], weights: NDArray[np.floating] | None = None
) -> float:
    """Mean of ``-log p(label)``, in nats, over the images or with their ``weights``."""
    shifted = np.asarray(logits, dtype=np.float64) - logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(shifted).sum(axis=1))
    return float(np.average(log_sum - shifted[np.arange(len(labels)), labels], weights=weights))


def fit_temperature(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> float:
    """The temperature, by which logits are divided, that makes the labels of held-out images likeliest.

    It changes no ranking. It lies between 0.05 and 20.

    Where every image is classified correctly, any lower temperature makes their labels likelier, which n images cannot show.
    So half an image more counts (Jeffreys' prior), like the average one, but with the likeliest of the wrong labels as its
    label: scores are then about 1 - 0.5/n on average, and with some mistakes among many images it changes nothing.

    Args:
        logits: ``(N, classes)``, of images that were not trained on.
        labels: ``(N,)``.
    """
    return _fit_temperature(np.asarray(logits, dtype=np.float64), labels, 1.0)


def describe_limit(temperature: float, images: int) -> str | None:
    """A warning where :func:`fit_temperature` went as far as it goes; None where it did not."""
    low, high = _TEMPERATURES
    if low * 1.01 < temperature < high / 1.01:
        return None
    scores = "near 0 and 1" if temperature < 1 else "nearly the same for all classes"
    return (
        f"the temperature is {temperature:.3g}, the limit of what is fitted, so that scores are {scores}: {images} validation "
        "images are too few to tell, or the model has learned nothing; validate on more, with --val or a larger --val-fraction"
    )


def cross_fit_temperatures(
    logits: NDArray[np.floating],
    labels: NDArray[np.int64],
    folds: int = FOLDS,
    seed: int = 0,
    groups: Sequence[str] | None = None,
) -> NDArray[np.float64]:
    """For each image the temperature that was fitted on the others, ``(N,)``.

    A calibration error that is measured with one temperature on the images that it was fitted on is too small. The images
    are dealt into folds at random, groups whole; each fold's temperature is :func:`fit_temperature` of all other folds.

    Args:
        logits: ``(N, classes)``, of images that were not trained on.
        labels: ``(N,)``.
        folds: at most; of fewer groups there are as many folds. A single group keeps the temperature 1.
        seed: of the deal.
        groups: ``(N,)``, the group of each image, such as a person; by default each image is one.
    """
    scores = np.asarray(logits, dtype=np.float64)
    start = _fit_temperature(scores, labels, 1.0)
    temperatures = np.ones(len(labels))
    group = np.arange(len(labels)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    count = int(group.max()) + 1
    fold = (np.random.default_rng(seed).permutation(count) % min(folds, count))[group]
    for number in range(fold.max() + 1 if count > 1 else 0):
        others = fold != number
        temperatures[~others] = _fit_temperature(scores[others], labels[others], start)
    return temperatures


def _fit_temperature(logits: NDArray[np.float64], labels: NDArray[np.int64], start: float) -> float:
    """Newton's method for the inverse temperature, in which the log loss is convex, within a bracket that only shrinks."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    labelled = _mean_labelled(shifted, labels)
    low, high = 1 / _TEMPERATURES[1], 1 / _TEMPERATURES[0]
    inverse = min(max(1 / start, low), high)
    for _ in range(60):
        slope, curvature = _log_loss_derivatives(shifted, labelled, inverse)
        low, high = (low, inverse) if slope > 0 else (inverse, high)
        step = inverse - slope / curvature if curvature > 0 else low
        following = step if low < step < high else (low + high) / 2
        if abs(following - inverse) <= 1e-5 * inverse:
            break
        inverse = following
    return 1 / following


def _mean_labelled(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """The mean logit of the right label, with :data:`PRIOR` images more whose label is the likeliest wrong one."""
    rows = np.arange(len(labels))
    wrong = logits.copy()
    wrong[rows, labels] = -np.inf
    right = float(logits[rows, labels].mean())
    return right if logits.shape[1] == 1 else right + (float(wrong.max(axis=1).mean()) - right) * PRIOR / (len(rows) + PRIOR)


def _log_loss_derivatives(logits: NDArray[np.float64], labelled: float, inverse: float) -> tuple[float, float]:
    """The first two derivatives of the mean log loss with respect to the inverse temperature.

    Args:
        logits: ``(N, classes)``, at most 0 in each row and 0 somewhere.
        labelled: mean logit of the right class, see :func:`_mean_labelled`.
    """
    exponents = np.exp(logits * inverse)
    total = exponents.sum(axis=1)
    mean = np.einsum("nc,nc->n", exponents, logits) / total
    square = np.einsum("nc,nc,nc->n", exponents, logits, logits) / total
    return float(mean.mean()) - labelled, float((square - mean**2).mean())
