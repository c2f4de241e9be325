"""Advice in words on how to train on images that were inspected: what ``dhvt train`` chooses by itself, and why."""

from __future__ import annotations

from statistics import median
from typing import Any

from dhvt.data.inspection.inspection import Inspection
from dhvt.data.splits import DEFAULT_VAL_FRACTION, count_held_out
from dhvt.data.statistics import IMBALANCE
from dhvt.data.text import count
from dhvt.hardware.cpus import available_cpus
from dhvt.hardware.gpus import count_visible_gpus, read_driver
from dhvt.training.automatic import (
    SizeChoice,
    choose_epochs,
    choose_size,
    default_config,
    device_gflops,
    forward_gflop,
    training_minutes,
)
from dhvt.training.config import Recipe, RunOptions
from dhvt.training.fields import options_of

LEAST_CALIBRATION_IMAGES = 100
"""With 100, a coverage of 0.95 is 0.90 to 0.98 in the long run."""


def advise(inspection: Inspection) -> list[str]:
    """A line each on the image size, epochs, uneven classes and reference images; none where no training image can be read."""
    split = inspection.training_split
    sides = [min(image.facts.width, image.facts.height) for image in inspection.readable if image.split == split]
    if not sides:
        return []
    recipe, images, side = Recipe.preset(_default("recipe")), _count_trained(inspection), float(median(sides))
    epochs = choose_epochs(images, recipe.batch_size)
    choice = _choose_size(side, images, epochs, recipe)
    steps = max(images // recipe.batch_size, 1)
    return [
        _describe_size(side, choice),
        f"epochs: {count(images, 'image')} to learn from make {count(steps, 'step')} an epoch; --epochs auto, the default, "
        f"takes {epochs}, about {count(max(round(choice.minutes), 1), 'minute')} here by calculation.",
        _describe_classes(inspection),
        _describe_calibration(images),
    ]


def _default(name: str) -> Any:
    return next(entry.default for entry in options_of(RunOptions) if entry.name == name)


def _count_trained(inspection: Inspection) -> int:
    """The images that are trained on: all of the split, or without those that would be held out."""
    counts = inspection.class_counts[inspection.training_split].values()
    held_out = 0 if inspection.is_divided else sum(count_held_out(number, DEFAULT_VAL_FRACTION) for number in counts)
    return sum(counts) - held_out


def _choose_size(side: float, images: int, epochs: int, recipe: Recipe) -> SizeChoice:
    """The size that ``--img-size auto`` takes on this machine."""
    gflops = device_gflops("cuda" if count_visible_gpus(read_driver()) else "cpu", available_cpus())
    return choose_size(
        side,
        lambda size: forward_gflop(default_config(size)),
        lambda gflop: training_minutes(gflop, images=images, epochs=epochs, resolutions=recipe.resolutions, gflops=gflops),
        budget=_default("auto_minutes"),
    )


def _describe_calibration(images: int) -> str:
    held_out = images // 10
    if held_out >= LEAST_CALIBRATION_IMAGES:
        return (
            f"reference images: --calibration-fraction 0.1 holds out {held_out:,}, by which the model then gives sets of "
            "labels that have the right one, and tells unknown images."
        )
    return (
        f"reference images: too few images to hold out a tenth ({held_out:,}) for prediction sets; give the model others "
        "later, with dhvt calibrate."
    )


def _describe_size(side: float, choice: SizeChoice) -> str:
    size, wanted = choice.img_size, choice.wanted_size
    chosen = f"image size: the median shorter side is {side:g} pixels; --img-size auto, the default, takes {size}"
    if size < wanted:
        return f"{chosen}, since {wanted} would take longer than --auto-minutes {_default('auto_minutes'):g}."
    return f"{chosen}." if size >= side else f"{chosen}: give a larger --img-size where small details matter."


def _describe_classes(inspection: Inspection) -> str:
    counts = [number for number in inspection.class_counts[inspection.training_split].values() if number]
    times = max(counts) / min(counts)
    if times <= IMBALANCE:
        return f"classes: the largest has {times:.1f} times the images of the smallest, which needs no weights."
    return (
        f"classes: the largest has {times:.0f} times the images of the smallest; read balanced accuracy and macro-F1 beside "
        "top-1, and try --class-weights sqrt or balanced."
    )
