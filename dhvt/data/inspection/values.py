"""The images of more than 8 bits: what is white in them, and which ones a training would refuse."""

from __future__ import annotations

from typing import NamedTuple

from dhvt.data.inspection.inspection import CheckedImage, Inspection
from dhvt.data.levels import describe_levels, find_white_levels
from dhvt.errors import DataError


class DeepValues(NamedTuple):
    """What a training would find.

    Args:
        images: those of more than 8 bits that are trained on.
        description: what is white, in words; None where all images have 8 bits.
        problem: why no white level fits; None where one does.
        refused: images of any split that do not fit it, and why.
    """

    images: list[CheckedImage]
    description: str | None
    problem: str | None
    refused: list[tuple[CheckedImage, str]]


def find_deep_values(inspection: Inspection) -> DeepValues:
    """The values of an inspection's images, as the training without ``--white`` would take them."""
    deep = [(image, image.facts.values) for image in inspection.readable if image.facts.values is not None]
    trained = [(image, values) for image, values in deep if image.split == inspection.training_split]
    images, ranges = [image for image, _ in trained], [values for _, values in trained]
    try:
        white = find_white_levels(ranges)
    except DataError as error:
        return DeepValues(images, None, str(error), [])
    refused = [(image, reason) for image, values in deep if (reason := white.refusal(values))]
    return DeepValues(images, describe_levels(ranges, white), None, refused)
