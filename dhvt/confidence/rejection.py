"""How many images of the kind that a model knows it calls unknown: measured beside what their number allows."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dhvt.confidence.coverage import FALSE_ALARM, covered_quantiles
from dhvt.confidence.known import NoveltyIndex, least_images, p_values

STATED = (0.01, 0.05)
"""The rejected shares that reports and checks measure."""


@dataclass(frozen=True, kw_only=True)
class Rejection:
    """Images like the reference, not of it, that were called unknown.

    Args:
        reject: the share that may be, 0 to 1.
        measured: the share that was.
        low, high: between these ``measured`` is in 95 % of cases, where exactly as many are called unknown as may be; less than
            ``low`` is no fault.
        most: above this the promise is broken, but for one case in 1,000.
        images: that were measured.
    """

    reject: float
    measured: float
    low: float
    high: float
    most: float
    images: int

    @property
    def fault(self) -> str | None:
        """How the promise is broken, as far as so many images tell; None where it is kept."""
        if self.measured <= self.most:
            return None
        return f"at reject {self.reject:g}, {self.measured:.1%} of known images are called unknown (at most {self.most:.1%})"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def describe(self) -> str:
        """One line."""
        return (
            f"reject {self.reject:g}: {self.measured:.1%} of {self.images:,} images are called unknown (so many allow "
            f"{self.low:.1%} to {self.high:.1%} and fewer)"
        )


def possible_rejects(known: int, rejects: tuple[float, ...] = STATED) -> list[float]:
    """Those of the shares for which so many reference images are enough."""
    return [reject for reject in rejects if known >= least_images(reject)]


def measure_rejection(
    novelty: NDArray[np.float64],
    index: NDArray[np.float32],
    logits: NDArray[np.float32],
    rejects: tuple[float, ...] = STATED,
) -> list[Rejection]:
    """One entry for each share for which the reference has enough images; none without an image.

    Args:
        novelty, index: of the reference, see :class:`dhvt.confidence.reference.Measured`.
        logits: ``(N, classes)``, of other images.
    """
    images, known = len(logits), len(novelty)
    possible = possible_rejects(known, rejects)
    if not images or not possible:
        return []
    values = p_values(np.sort(novelty), NoveltyIndex(index).score_many(logits))
    found = []
    for reject in possible:
        # A p-value above the share is as likely as the right label in a set of the remaining coverage: both are ranks.
        accepted = covered_quantiles(known, images, 1 - reject, (FALSE_ALARM, 0.025, 0.975))
        most, high, low = ((images - round(share * images)) / images for share in accepted)
        measured = float((values <= reject).mean())
        found.append(Rejection(reject=reject, measured=measured, low=low, high=high, most=most, images=images))
    return found


@dataclass(frozen=True, kw_only=True)
class Detection:
    """How well images of other kinds are told from known ones. Nothing is promised of it.

    Args:
        images: of other kinds.
        found: by rejected share of the known, the share of them that is called unknown.
        auroc: the chance that one of them is stranger to the model than a known image.
    """

    images: int
    found: dict[float, float]
    auroc: float

    def describe(self) -> str:
        """One line."""
        shares = ", ".join(f"{share:.1%} at reject {reject:g}" for reject, share in self.found.items())
        called = f"are called unknown: {shares or 'unmeasured, the reference has too few images'}"
        return f"of {self.images:,} images of other kinds {called}; AUROC {self.auroc:.1%}"


def measure_detection(
    novelty: NDArray[np.float64],
    index: NDArray[np.float32],
    known: NDArray[np.float32],
    unknown: NDArray[np.float32],
    rejects: tuple[float, ...] = STATED,
) -> Detection:
    """How many images of other kinds are called unknown, and how well novelty ranks them.

    Args:
        novelty, index: of the reference, see :class:`dhvt.confidence.reference.Measured`.
        known: ``(N, classes)``, logits of images like the reference, not of it.
        unknown: ``(U, classes)``, logits of images of other kinds.
    """
    neighbours = NoveltyIndex(index)
    ours, others = (np.sort(neighbours.score_many(logits)) for logits in (known, unknown))
    values = p_values(np.sort(novelty), others)
    below, up_to = (np.searchsorted(ours, others, side=side) for side in ("left", "right"))
    return Detection(
        images=len(others),
        found={reject: float((values <= reject).mean()) for reject in possible_rejects(len(novelty), rejects)},
        auroc=float((below + up_to).mean() / 2 / len(ours)),
    )
