"""The images of more than 8 bits: what is white in them, and which ones a training would refuse."""

from __future__ import annotations

from typing import NamedTuple

from dhvt.data.inspection.inspection import CheckedImage, Inspection
from dhvt.data.levels import describe_levels, fit_white_levels


class DeepValues(NamedTuple):
    """What a training would find.

    Args:
        images: those of more than 8 bits that are trained on.
        description: what is white, in words; None where all images have 8 bits.
        refused: images of any split that do not fit it, and why.
    """

    images: list[CheckedImage]
    description: str | None
    refused: list[tuple[CheckedImage, str]]


def find_deep_values(inspection: Inspection) -> DeepValues:
    """The values of an inspection's images, as a training with the same ``--white`` would take them."""
    deep = [(image, image.facts.values) for image in inspection.readable if image.facts.values is not None]
    trained = [(image, values) for image, values in deep if image.split == inspection.training_split]
    ranges = [values for _, values in trained]
    white, reasons = fit_white_levels(ranges, inspection.white)
    fitting = [values for values, reason in zip(ranges, reasons, strict=True) if reason is None]
    others = [(image, values) for image, values in deep if image.split != inspection.training_split]
    judged = [(image, reason) for (image, _), reason in zip(trained, reasons, strict=True)]
    judged += [(image, white.refusal(values)) for image, values in others]
    refused = [(image, reason) for image, reason in judged if reason is not None]
    return DeepValues([image for image, _ in trained], describe_levels(fitting, white), refused)
