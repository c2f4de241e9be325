"""Whether a score of 0.8 is right eight times in ten, and how to make it so (Guo et al. 2017, arXiv 1706.04599)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

BINS = 15
_LOG_TEMPERATURES = (-3.0, 3.0)  # 0.05 to 20; beyond, the model is not worth calibrating


class Reliability(NamedTuple):
    """Images binned by the score of their first answer, each ``(BINS,)``; empty bins hold zeros."""

    share: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    confidence: NDArray[np.float64]


def softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Probabilities of ``(…, classes)`` logits."""
    exponents = np.exp(np.asarray(logits, dtype=np.float64) - logits.max(axis=-1, keepdims=True))
    probabilities: NDArray[np.float64] = exponents / exponents.sum(axis=-1, keepdims=True)
    return probabilities


def reliability(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> Reliability:
    """Accuracy against confidence, in :data:`BINS` bins of equal width.

    Args:
        logits: ``(N, classes)``.
        labels: ``(N,)``.
    """
    probabilities = softmax(logits)
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    filled = np.maximum(counts, 1)
    return Reliability(
        share=counts / len(labels),
        accuracy=np.bincount(bins, weights=correct, minlength=BINS) / filled,
        confidence=np.bincount(bins, weights=confidence, minlength=BINS) / filled,
    )


def expected_calibration_error(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> float:
    """Mean distance, 0 to 1, between confidence and accuracy over the bins."""
    bins = reliability(logits, labels)
    return float((bins.share * np.abs(bins.accuracy - bins.confidence)).sum())


def negative_log_likelihood(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> float:
    """Mean of ``-log p(label)``, in nats."""
    shifted = np.asarray(logits, dtype=np.float64) - logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(shifted).sum(axis=1))
    return float((log_sum - shifted[np.arange(len(labels)), labels]).mean())


def fit_temperature(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> float:
    """The number to divide logits by so that held-out images become likeliest; it changes no ranking.

    The likelihood is convex in the inverse temperature, so that a golden-section search finds its one minimum. Where every
    image is right there is none, as any lower temperature is likelier, and the answer is 1.

    Args:
        logits: ``(N, classes)``, of images that were not trained on.
        labels: ``(N,)``.
    """
    if bool((logits.argmax(axis=1) == labels).all()):
        return 1.0
    golden = (5**0.5 - 1) / 2
    low, high = _LOG_TEMPERATURES
    while high - low > 1e-4:
        left, right = high - golden * (high - low), low + golden * (high - low)
        if negative_log_likelihood(logits / np.exp(left), labels) < negative_log_likelihood(logits / np.exp(right), labels):
            high = right
        else:
            low = left
    return float(np.exp((low + high) / 2))
