"""Shares of images: their intervals, and which classes have another share of the answers than of the reference."""

from __future__ import annotations

from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
"""Of all intervals of one comparison together."""

Z_95 = NormalDist().inv_cdf(0.975)


class ShareChange(NamedTuple):
    """One class, by its label's index: its shares, and the interval of their difference."""

    label: int
    share: float
    reference_share: float
    low: float
    high: float


def changed_shares(counts: NDArray[np.integer], reference: NDArray[np.integer]) -> list[ShareChange]:
    """The classes whose share has changed by more than chance does, the largest change first.

    The intervals are Newcombe's (1998, method 10), widened by Bonferroni to hold for all classes at once, for one look.

    Args:
        counts, reference: predicted images of each class, ``(classes,)``.
    """
    if not counts.sum() or not reference.sum():
        return []
    z = NormalDist().inv_cdf(1 - (1 - CONFIDENCE) / (2 * len(counts)))
    share, before = counts / counts.sum(), reference / reference.sum()
    low, high = wilson_interval(share, int(counts.sum()), z)
    before_low, before_high = wilson_interval(before, int(reference.sum()), z)
    change = share - before
    least = change - np.hypot(share - low, before_high - before)
    most = change + np.hypot(high - share, before - before_low)
    found = np.flatnonzero((least > 0) | (most < 0))
    order = found[np.argsort(-np.abs(change[found]), kind="stable")]
    return [ShareChange(int(i), *(float(values[i]) for values in (share, before, least, most))) for i in order]


def wilson_interval(
    share: NDArray[np.float64], images: NDArray[np.integer] | int, z: float = Z_95
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Wilson's score interval (1927) of a share that was measured on so many images, ``(low, high)``; ``images`` are not 0.

    Args:
        z: quantile of the normal distribution; by default that of a 95 % interval.
    """
    z2 = z * z
    middle = (share + z2 / (2 * images)) / (1 + z2 / images)
    half = np.sqrt(z2 * share * (1 - share) / images + z2**2 / (4 * images**2)) / (1 + z2 / images)
    return middle - half, middle + half
