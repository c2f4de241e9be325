"""Which classes have another share of the answers than of the reference."""

from __future__ import annotations

from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
"""Of all intervals of one comparison together."""


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
    share, low, high = _wilson(counts, z)
    before, before_low, before_high = _wilson(reference, z)
    change = share - before
    least = change - np.hypot(share - low, before_high - before)
    most = change + np.hypot(high - share, before - before_low)
    found = np.flatnonzero((least > 0) | (most < 0))
    order = found[np.argsort(-np.abs(change[found]), kind="stable")]
    return [ShareChange(int(i), *(float(values[i]) for values in (share, before, least, most))) for i in order]


def _wilson(counts: NDArray[np.integer], z: float) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Shares, and the ends of Wilson's score intervals."""
    n = counts.sum()
    share = counts / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return share, centre - half, centre + half
