"""What a precision costs in accuracy, as export recorded it in the model's card, and how much it may."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dhvt.artifact import ModelCard, Variant
from dhvt.card import top1_loss

LARGEST_TOP1_LOSS = 0.2
"""Percentage points of top-1 that a precision may cost; where export compared few images, one of them more."""


@dataclass(frozen=True, kw_only=True)
class AccuracyCost:
    """The accuracy of a variant of the model beside float32's, on the images that export compared.

    Args:
        top1_loss: percentage points of top-1 that it costs; None where no labels were at hand, or nothing was recorded.
        agreement: share of the images, 0 to 1, with the same most likely class.
        bound: the largest ``top1_loss`` that ``auto`` accepts.
    """

    top1_loss: float | None = None
    agreement: float | None = None
    bound: float = LARGEST_TOP1_LOSS

    @property
    def is_within_bound(self) -> bool:
        """Whether it may be chosen. Without a record the self-test alone bounds the error."""
        return self.top1_loss is None or self.top1_loss <= self.bound


def largest_top1_loss(images: int) -> float:
    """The bound for a loss that is measured on so many images."""
    return max(LARGEST_TOP1_LOSS, 100.001 / images)


def accuracy_cost(card: ModelCard, candidate: str) -> AccuracyCost:
    """The recorded cost of a candidate, such as ``openvino:int8``."""
    name, _, precision = candidate.partition(":")
    variant = card.find_run(name, precision)
    if variant is None:
        return AccuracyCost()
    recorded = variant.parity.get("comparisons") or []
    found = next((entry for entry in recorded if name.startswith(entry["runtime"])), None)
    if found is None:
        return AccuracyCost()
    return AccuracyCost(top1_loss=top1_loss(found), agreement=found.get("top1_agreement"), bound=_bound(variant, found))


def _bound(variant: Variant, comparison: dict[str, Any]) -> float:
    recorded = variant.parity.get("tolerance", {}).get("top1_loss")
    return largest_top1_loss(comparison["images"]) if recorded is None else recorded
