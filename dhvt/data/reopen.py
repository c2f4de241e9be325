"""A training's images found again by their fingerprints: what it learned from, validated on and held out as reference."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dhvt.data.exclusion import leave_out_recorded
from dhvt.data.fingerprint import fingerprint
from dhvt.data.sources import ImageSource, Subset, list_splits, open_dataset
from dhvt.data.splits import open_first_split, split_source
from dhvt.errors import DataError

_log = logging.getLogger(__name__)


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
        rest = open_training_split(data, classes, record, seed)
        if len(rest) == record["training"]["images"] + validation["images"]:
            train, held_out = _split_as_recorded(rest, fraction, seed, record)
            if fingerprint(held_out).digest == validation["digest"]:
                return train, held_out
    candidates = [split for split in splits if split != "train"] if splits else [None]
    for split in candidates:
        val = leave_out_recorded(open_dataset(data, split, classes), validation)
        if len(val) == validation["images"] and fingerprint(val).digest == validation["digest"]:
            return open_training_split(data, classes, record, seed) if "train" in splits else None, val
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


def open_training_split(data: str | Path, classes: Sequence[str], record: Mapping[str, Any], seed: int) -> ImageSource:
    """The training split without the images that the training left out, or held out as reference.

    Args:
        data, classes, record, seed: as for :func:`reopen_validation`.
    """
    return _divide(data, classes, record, seed)[0]


def reopen_reference(data: str | Path, classes: Sequence[str], record: Mapping[str, Any], seed: int) -> ImageSource | None:
    """The images that a training held out as reference; None where it held out none, or ``data`` has not got them.

    Args:
        data, classes, record, seed: as for :func:`reopen_validation`.
    """
    splits = list_splits(data)
    if "reference" not in record or (splits and "train" not in splits):
        return None
    reference = _divide(data, classes, record, seed)[1]
    if reference is None or fingerprint(reference).digest != record["reference"]["digest"]:
        return None
    return reference


def _divide(
    data: str | Path, classes: Sequence[str], record: Mapping[str, Any], seed: int
) -> tuple[ImageSource, ImageSource | None]:
    """The training split without the reference images, and these where there are as many images as in the training."""
    whole = leave_out_recorded(open_first_split(data, ["train"], classes).source, record.get("training", {}))
    if "reference" not in record:
        return whole, None
    reference, validation = record["reference"], record["validation"]
    own = validation["images"] if "held_out_fraction" in validation else 0
    if len(whole) != record["training"]["images"] + own + reference["images"]:
        return whole, None
    return _split_as_recorded(whole, reference["held_out_fraction"], seed, record)


def _split_as_recorded(source: ImageSource, fraction: float, seed: int, record: Mapping[str, Any]) -> tuple[Subset, Subset]:
    """The images split by the groups of the training, or without any where these images have none, which is logged."""
    group_by = record.get("validation", {}).get("group_by")
    if group_by is not None:
        try:
            return split_source(source, fraction, seed, group_by)
        except DataError as error:
            _log.warning("%s is split without the groups of the training: %s", source.origin, error)
    return split_source(source, fraction, seed)
