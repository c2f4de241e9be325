"""Which images of a data set are trained on, validated on, calibrated with and tested on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dhvt.data.groups import hold_out_groups, require_groups_apart
from dhvt.data.sources import ImageSource, Subset, list_splits, open_dataset
from dhvt.data.sources.base import split_of_file, split_of_word
from dhvt.errors import ConfigError, DataError

DEFAULT_VAL_FRACTION = 0.1

WHOLE = "all"
"""What stands for the split's name where a data set is not divided and its own name is no split's."""


class NamedSplit(NamedTuple):
    """Images, and the name of the split that they are: ``train``, ``val``, ``test``, or :data:`WHOLE`."""

    source: ImageSource
    split: str


def open_first_split(path: str | Path, splits: Sequence[str], classes: Sequence[str] | None = None) -> NamedSplit:
    """The first of ``splits`` that a data set has; all images of one that is not divided.

    Args:
        path, classes: as for :func:`open_dataset`.
        splits: the ones that will do, in order of preference.

    Raises:
        DataError: it is divided, but has none of them; or nothing usable is there.
    """
    found = list_splits(path)
    if not found:
        path = Path(path)
        own = split_of_word(path.name) if path.is_dir() else split_of_file(path)
        return NamedSplit(open_dataset(path, None, classes), own or WHOLE)
    chosen = next((split for split in splits if split in found), None)
    if chosen is None:
        raise DataError(f"{path} has no {' or '.join(splits)} split; it has {', '.join(found)}")
    return NamedSplit(open_dataset(path, chosen, classes), chosen)


def open_test_data(path: str | Path, split: str | None = None, classes: Sequence[str] | None = None) -> NamedSplit:
    """The images to measure a finished model on: ``split``, else the test split, else all where there are no splits.

    Raises:
        DataError: as for :func:`open_dataset`; or it is divided and has no test split, and ``split`` is not given.
    """
    if split is not None:
        return NamedSplit(open_dataset(path, split, classes), split_of_word(split) or split)
    try:
        return open_first_split(path, ["test"], classes)
    except DataError as error:
        splits = list_splits(path)
        if not splits or "test" in splits:
            raise
        raise DataError(f"{error}; choose one with --split, or give other images") from error


def split_source(source: ImageSource, fraction: float, seed: int, group_by: str | None = None) -> tuple[Subset, Subset]:
    """Two subsets, the second with ``fraction`` of each class; of a class with two images or more, each has some.

    Args:
        group_by: as for :meth:`ImageSource.groups`; each group is in one subset only, and the fraction nearly kept.

    Raises:
        DataError: nothing would be left for one of the two, or an image has no group.
    """
    val = _hold_out(source, fraction, seed) if group_by is None else hold_out_groups(source, fraction, seed, group_by)
    train = np.setdiff1d(np.arange(len(source)), val)
    if not len(val) or not len(train):
        hint = "" if group_by is None else f"; --group-by {group_by!r} may find one group only"
        raise DataError(f"{len(source)} images cannot be split with a validation fraction of {fraction}{hint}")
    return Subset(source, train), Subset(source, val)


def _hold_out(source: ImageSource, fraction: float, seed: int) -> NDArray[np.int64]:
    rng = np.random.default_rng(seed)
    held: list[NDArray[np.int64]] = []
    for label in range(len(source.classes)):
        rows = rng.permutation(np.flatnonzero(source.labels == label))
        held.append(rows[: count_held_out(len(rows), fraction)])
    return np.sort(np.concatenate(held))


def count_held_out(images: int, fraction: float) -> int:
    """How many images of a class are held out."""
    return min(max(round(images * fraction), 1), images - 1) if images > 1 else 0


class TrainingData(NamedTuple):
    """The images of a training.

    Args:
        train, val: the images to learn from and to validate on, with the same classes.
        val_fraction: the part of the training split that ``val`` was held out of it; None where it has other images.
        measured_on: what ``val`` is, in words.
        group_by: what tells the groups of which none is in both, see :meth:`ImageSource.groups`.
        reference: images that were held out of the training split first, for promises about new ones, see
            :mod:`dhvt.confidence`; None where none were.
        reference_fraction: the part of the training split that they are.
    """

    train: ImageSource
    val: ImageSource
    val_fraction: float | None
    measured_on: str
    group_by: str | None = None
    reference: ImageSource | None = None
    reference_fraction: float | None = None


def open_training_data(
    data: str | Path,
    val: str | Path | None = None,
    val_fraction: float | None = None,
    seed: int = 0,
    select: Callable[[ImageSource], ImageSource] = lambda source: source,
    group_by: str | None = None,
    calibration_fraction: float | None = None,
) -> TrainingData:
    """The images to train on, and others to validate on: those of ``val``, else the data's val split, else held out.

    A test split of ``data`` is never used: what a model is chosen and calibrated by must not be what it is finally
    measured on.

    Args:
        data, val: as for :func:`open_dataset`. Of ``val``, its val split is taken, else its test split, else all.
        val_fraction: of each class, to hold out of the training split; :data:`DEFAULT_VAL_FRACTION` unless given.
        seed: of what is held out.
        select: returns the images of a split that are used, such as the readable ones; called before any are held out, so
            that it does not matter whether the others are there.
        group_by: as for :meth:`ImageSource.groups`; what is held out is whole groups.
        calibration_fraction: of each class, to hold out of the training split before all else, as ``reference``.

    Raises:
        ConfigError: ``val_fraction`` is given where nothing is going to be held out.
        DataError: nothing usable is there, there is one class only, an image has no group, or a group is in both.
    """
    source = open_first_split(data, ["train"]).source
    if len(source.classes) < 2:
        raise DataError(
            f"{data} has one class only, {source.classes[0]}; expected {data}/<class>/<image> or "
            f"{data}/train/<class>/<image> with two classes or more"
        )
    own = "--val" if val is not None else "a val split" if "val" in list_splits(data) else None
    if own is None:
        fraction = DEFAULT_VAL_FRACTION if val_fraction is None else val_fraction
        rest, reference = _hold_out_reference(select(source), calibration_fraction, seed, group_by)
        train, held_out = split_source(rest, fraction, seed, group_by)
        whole = "" if group_by is None else f" in {len({*held_out.groups(group_by)})} whole groups"
        measured_on = f"{fraction:.3g} of each class, held out{whole}"
        return TrainingData(train, held_out, fraction, measured_on, group_by, reference, calibration_fraction)
    if val_fraction is not None:
        raise ConfigError(f"--val-fraction {val_fraction} would hold nothing out, because there is {own}; omit one of them")
    if val is None:
        chosen, measured_on = open_dataset(data, "val", source.classes), f"the val split of {data}"
    else:
        chosen, split = open_first_split(val, ["val", "test"], source.classes)
        measured_on = f"the {split} split of {val}" if list_splits(val) else f"{val}"
    rest, reference = _hold_out_reference(select(source), calibration_fraction, seed, group_by)
    images = TrainingData(rest, select(chosen), None, measured_on, group_by, reference, calibration_fraction)
    if group_by is not None:
        for part in (rest, *([] if reference is None else [reference])):
            require_groups_apart(part, images.val, group_by)
    return images


def _hold_out_reference(
    source: ImageSource, fraction: float | None, seed: int, group_by: str | None
) -> tuple[ImageSource, ImageSource | None]:
    return (source, None) if fraction is None else split_source(source, fraction, seed, group_by)
