"""Which images of a data set are trained on, validated on, calibrated with and tested on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dhvt.data.exclusion import leave_out_recorded
from dhvt.data.fingerprint import fingerprint
from dhvt.data.groups import hold_out_groups, require_groups_apart
from dhvt.data.sources import ImageSource, Subset, list_splits, open_dataset
from dhvt.data.sources.base import split_of_file, split_of_word
from dhvt.errors import ConfigError, DataError

DEFAULT_VAL_FRACTION = 0.1
_log = logging.getLogger(__name__)

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
    """

    train: ImageSource
    val: ImageSource
    val_fraction: float | None
    measured_on: str
    group_by: str | None = None


def open_training_data(
    data: str | Path,
    val: str | Path | None = None,
    val_fraction: float | None = None,
    seed: int = 0,
    select: Callable[[ImageSource], ImageSource] = lambda source: source,
    group_by: str | None = None,
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
        train, held_out = split_source(select(source), fraction, seed, group_by)
        whole = "" if group_by is None else f" in {len({*held_out.groups(group_by)})} whole groups"
        return TrainingData(train, held_out, fraction, f"{fraction:.3g} of each class, held out{whole}", group_by)
    if val_fraction is not None:
        raise ConfigError(f"--val-fraction {val_fraction} would hold nothing out, because there is {own}; omit one of them")
    if val is None:
        chosen, measured_on = open_dataset(data, "val", source.classes), f"the val split of {data}"
    else:
        chosen, split = open_first_split(val, ["val", "test"], source.classes)
        measured_on = f"the {split} split of {val}" if list_splits(val) else f"{val}"
    images = TrainingData(select(source), select(chosen), None, measured_on, group_by)
    if group_by is not None:
        require_groups_apart(images.train, images.val, group_by)
    return images


def reopen_validation(
    data: str | Path, classes: Sequence[str], record: Mapping[str, Any], seed: int
) -> tuple[ImageSource | None, ImageSource] | None:
    """The images that a training validated on, found again by their fingerprint; None where ``data`` has not got them.

    Args:
        data: as for :func:`open_dataset`.
        classes: the model's.
        record: the checkpoint's ``data``, see :func:`dhvt.data.record.record_training_data`; empty in imported ones.
        seed: of the training's recipe.

    Returns:
        The images that it trained on, where they are in ``data`` too, and those that it validated on.
    """
    validation = record.get("validation")
    if validation is None:
        return None
    splits = list_splits(data)
    fraction = validation.get("held_out_fraction")
    if fraction is not None and (not splits or "train" in splits):
        whole = leave_out_recorded(open_first_split(data, ["train"], classes).source, record["training"])
        if len(whole) == record["training"]["images"] + validation["images"]:
            train, held_out = _split_as_recorded(whole, fraction, seed, record)
            if fingerprint(held_out).digest == validation["digest"]:
                return train, held_out
    candidates = [split for split in splits if split != "train"] if splits else [None]
    for split in candidates:
        val = leave_out_recorded(open_dataset(data, split, classes), validation)
        if len(val) == validation["images"] and fingerprint(val).digest == validation["digest"]:
            has_train = "train" in splits
            return leave_out_recorded(open_dataset(data, "train", classes), record["training"]) if has_train else None, val
    return None


def reopen_training_data(
    data: str | Path, classes: Sequence[str], record: Mapping[str, Any], seed: int
) -> tuple[ImageSource, ImageSource, bool]:
    """Images to calibrate with, and others to compare and measure on, held out as in the training where ``data`` is its data.

    Args:
        data, classes, record, seed: as for :func:`reopen_validation`.

    Returns:
        The two, which share no file, and whether the second is known to be what the training validated on.
    """
    found = reopen_validation(data, classes, record, seed)
    if found is not None:
        train, val = found
        return (*_split_as_recorded(val, 0.5, seed, record), True) if train is None else (train, val, True)
    splits = list_splits(data)
    if "train" in splits and len(splits) > 1:
        return open_dataset(data, "train", classes), open_first_split(data, ["val", "test"], classes).source, False
    whole = open_first_split(data, ["val", "test", "train"], classes).source
    return *_split_as_recorded(whole, 0.5, seed, record), False


def _split_as_recorded(source: ImageSource, fraction: float, seed: int, record: Mapping[str, Any]) -> tuple[Subset, Subset]:
    """The images split by the groups of the training, or without any where these images have none, which is logged."""
    group_by = record.get("validation", {}).get("group_by")
    if group_by is not None:
        try:
            return split_source(source, fraction, seed, group_by)
        except DataError as error:
            _log.warning("%s is split without the groups of the training: %s", source.origin, error)
    return split_source(source, fraction, seed)
