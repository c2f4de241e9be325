"""Advice in words: how to train on what was found."""

from __future__ import annotations

from statistics import median

from dhvt.data.inspection.inspection import Inspection
from dhvt.data.inspection.text import count
from dhvt.data.statistics import IMBALANCE

_SIZES = (32, 48, 64, 96, 128, 160, 224)
_STEPS = 300
_BATCH = 128


def advise(inspection: Inspection) -> list[str]:
    """A line on the image size, one on epochs and one on the weights of classes; none where no image can be read."""
    images = [image for image in inspection.readable if image.split == inspection.training_split]
    if not images:
        return []
    side = median(min(image.facts.width, image.facts.height) for image in images)
    size = next((size for size in _SIZES if size >= side), _SIZES[-1])
    steps = max(len(images) // _BATCH, 1)
    epochs = min(max(-(-_STEPS // steps), 30), 300)
    counts = [number for number in inspection.class_counts[inspection.training_split].values() if number]
    lines = [
        f"image size: the median shorter side is {side:.0f} pixels; --img-size {size} keeps it.",
        f"epochs: {count(len(images), 'image')} are {count(steps, 'step')} of {_BATCH} an epoch; --epochs {epochs}.",
    ]
    if max(counts) > IMBALANCE * min(counts):
        lines.append("classes: uneven; more images of the small ones help most.")
    else:
        lines.append("classes: even enough; no weights needed.")
    return lines
