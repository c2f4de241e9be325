"""How often the right label was in the set: measured on labelled images, beside what their number allows."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dhvt.confidence.sets import find_rank, find_threshold, nonconformity

STATED = (0.8, 0.9, 0.95, 0.99)
"""The coverages that reports and checks measure."""

FALSE_ALARM = 0.001
"""The chance that a promise which holds is called broken, at each coverage."""


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """The prediction sets of labelled images that are neither reference nor known to the model.

    Args:
        coverage: that was asked for, 0 to 1.
        measured: share of the images whose set has the right label.
        low, high: between these ``measured`` is in 95 % of cases, where sets cover exactly as often as asked; more than
            ``high`` is no fault, as sets have at least one label.
        least: below this the promise is broken, but for one case in 1,000.
        mean_size: labels in a set.
        images: that were measured.
    """

    coverage: float
    measured: float
    low: float
    high: float
    least: float
    mean_size: float
    images: int

    @property
    def fault(self) -> str | None:
        """How the promise is broken, as far as so many images tell; None where it is kept."""
        if self.measured >= self.least:
            return None
        return f"coverage {self.coverage:g} is {self.measured:.1%} (at least {self.least:.1%})"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def summarise(self) -> str:
        """What was measured, in words."""
        return (
            f"{100 * self.measured:.1f} % of {self.images:,} images (so many allow {100 * self.low:.1f} to "
            f"{100 * self.high:.1f} % and more), {self.mean_size:.2f} labels on average"
        )

    def describe(self) -> str:
        """One line."""
        return f"coverage {self.coverage:g}: right label in the set for {self.summarise()}"


def measure_coverage(
    true_scores: NDArray[np.float64],
    probabilities: NDArray[np.float64],
    labels: NDArray[np.integer],
    coverages: tuple[float, ...] = STATED,
) -> list[Coverage]:
    """One entry for each coverage for which the reference has enough images; none without an image.

    Args:
        true_scores: ``(reference images,)``, see :class:`dhvt.confidence.reference.Measured`.
        probabilities: ``(N, classes)``, calibrated, of other images.
        labels: ``(N,)``, their right classes.
    """
    ordered = np.sort(true_scores)
    images = len(labels)
    scores = nonconformity(probabilities)
    own = scores[np.arange(images), labels]
    found = []
    for coverage in coverages:
        if not images or find_rank(len(ordered), coverage) > len(ordered):
            continue
        threshold = find_threshold(ordered, coverage)
        low, high, least = covered_quantiles(len(ordered), images, coverage, (0.025, 0.975, FALSE_ALARM))
        found.append(
            Coverage(
                coverage=coverage,
                measured=float((own <= threshold).mean()),
                low=low,
                high=high,
                least=least,
                mean_size=float((scores <= threshold).sum(axis=1).mean()),
                images=images,
            )
        )
    return found


def covered_quantiles(reference: int, images: int, coverage: float, quantiles: tuple[float, ...]) -> list[float]:
    """Quantiles of the share of ``images`` whose set has the right label, over reference and images drawn anew.

    Of scores without ties that share times ``images`` has a beta-binomial distribution (Vovk 2012, arXiv 1209.2673).

    Args:
        reference: images; enough for the coverage.
    """
    rank = find_rank(reference, coverage)
    below = np.arange(images, dtype=np.float64)
    others = reference + 1 - rank
    steps = np.log(images - below) - np.log(below + 1) + np.log(rank + below) - np.log(others + images - below - 1)
    logs = np.concatenate([[0.0], np.cumsum(steps)])
    chances = np.exp(logs - logs.max())
    cumulated = np.cumsum(chances / chances.sum())
    return [float(np.searchsorted(cumulated, quantile) / images) for quantile in quantiles]
