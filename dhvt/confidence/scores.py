"""Calibration: whether a score of 0.8 is right eight times in ten, measured beside what the number of images allows."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dhvt.confidence.coverage import FALSE_ALARM

BINS = 15

_DRAWS = 2_000
_DRAWS_OF_A_CHECK = 20_000  # so that the last thousandth is twenty of them


class Reliability(NamedTuple):
    """Images binned by the score of their most likely class, each ``(BINS,)``; empty bins hold zeros."""

    share: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    confidence: NDArray[np.float64]

    @property
    def error(self) -> float:
        """The expected calibration error: the mean distance, 0 to 1, between confidence and accuracy over the bins."""
        return float((self.share * np.abs(self.accuracy - self.confidence)).sum())


def bin_scores(top_score: NDArray[np.floating], correct: NDArray[np.bool_]) -> Reliability:
    """Accuracy against confidence, in :data:`BINS` bins of equal width.

    Args:
        top_score: ``(N,)``, the probability of the most likely class.
        correct: ``(N,)``, whether that class is the right one.
    """
    bins = np.minimum((top_score * BINS).astype(np.int64), BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    filled = np.maximum(counts, 1)
    return Reliability(
        share=counts / len(correct),
        accuracy=np.bincount(bins, weights=correct, minlength=BINS) / filled,
        confidence=np.bincount(bins, weights=top_score, minlength=BINS) / filled,
    )


def chance_error(bins: Reliability, images: int, quantile: float, draws: int = _DRAWS) -> float:
    """The quantile of the error that true scores show by chance on so many images."""
    counts = np.rint(bins.share * images).astype(np.int64)
    right = np.random.default_rng(0).binomial(counts, np.clip(bins.confidence, 0, 1), (draws, BINS))
    return _quantile_of_error(bins, right / np.maximum(counts, 1), quantile)


def possible_error(bins: Reliability, images: int, quantile: float, draws: int = _DRAWS) -> float:
    """The quantile of the error where each bin's accuracy is drawn from Jeffreys' posterior, and at least the measured one.

    So few images that are all right do not count as proof.
    """
    counts = np.rint(bins.share * images).astype(np.int64)
    right = np.rint(bins.accuracy * counts)
    accuracy = np.random.default_rng(0).beta(right + 0.5, counts - right + 0.5, (draws, BINS))
    return max(_quantile_of_error(bins, accuracy, quantile), bins.error)


def _quantile_of_error(bins: Reliability, accuracy: NDArray[np.float64], quantile: float) -> float:
    return float(np.quantile((bins.share * np.abs(accuracy - bins.confidence)).sum(axis=1), quantile))


def error_interval(bins: Reliability, images: int) -> tuple[float, float]:
    """Where the calibration error of endless images like these may lie, 0 to 1: with few images it is known badly.

    The lower end is the error less what true scores would show by chance on so many images (97.5 % of draws stay below). The
    upper end is the 97.5 % quantile of :func:`possible_error`.
    """
    low = bins.error - chance_error(bins, images, 0.975)
    return max(low, 0.0), possible_error(bins, images, 0.975)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The calibration error, 0 to 1, on labelled images that are not reference images.

    Args:
        measured: on them.
        low, high: where that of endless images like them may lie, in 95 % of cases.
        reference: on the reference images: that is what is promised.
        most: above this the promise is broken, but for about one case in 1,000: the most that so many reference images allow,
            and what chance adds on so many others.
        images: that were measured.
    """

    measured: float
    low: float
    high: float
    reference: float
    most: float
    images: int

    @property
    def fault(self) -> str | None:
        """How the promise is broken, as far as so many images tell; None where it is kept."""
        if self.measured <= self.most:
            return None
        return f"the calibration error is {self.measured:.1%} (at most {self.most:.1%})"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def describe(self) -> str:
        """One line."""
        return (
            f"calibration error {self.measured:.1%} of {self.images:,} images (so many allow {self.low:.1%} to "
            f"{self.high:.1%}), {self.reference:.1%} of the reference images"
        )


def measure_calibration(reference: Reliability, reference_images: int, found: Reliability, images: int) -> Calibration:
    """The calibration error of new images beside that of the reference images."""
    low, high = error_interval(found, images)
    promised = possible_error(reference, reference_images, 1 - FALSE_ALARM, _DRAWS_OF_A_CHECK)
    return Calibration(
        measured=found.error,
        low=low,
        high=high,
        reference=reference.error,
        most=min(promised + chance_error(found, images, 1 - FALSE_ALARM, _DRAWS_OF_A_CHECK), 1.0),
        images=images,
    )
