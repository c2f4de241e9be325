"""The kinds of data sets that are understood, and :func:`open_dataset`, which opens any of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from dhvt.data.sources.base import SPLITS, ImageSource, SourceKind, split_of_word
from dhvt.data.sources.cifar import CIFARSource
from dhvt.data.sources.folder import FolderSource
from dhvt.data.sources.lists import ListSource
from dhvt.data.sources.parquet import ParquetSource
from dhvt.errors import DataError

KINDS: tuple[type[SourceKind], ...] = (CIFARSource, ParquetSource, ListSource, FolderSource)
"""Every kind of data set; the first whose ``detect`` is true opens a path. A new kind is a class like
these and one entry; docs/data.md and the help of ``--data`` in training/config.py describe it to users."""

_UNDERSTOOD = "; or ".join(kind.description for kind in reversed(KINDS))


def open_dataset(path: str | Path, split: str | None = None, classes: Sequence[str] | None = None) -> ImageSource:
    """Opens labelled images: class folders, Parquet files, DomainNet's lists, or torchvision's CIFAR files.

    ::

        from dhvt import open_dataset

        images = open_dataset("photos", split="train")
        print(len(images), images.classes)
        encoded, label = images.read(0), images.classes[images.labels[0]]

    Nothing is substituted: a split that is not there is an error that lists those that are.

    Args:
        path: see ``docs/data.md`` for the layouts.
        split: ``train``, ``val`` or ``test``, or another usual name of these; None where the data has no splits.
        classes: the class names that labels must refer to, such as a model's; None takes the data set's own.

    Raises:
        DataError: nothing usable is there, the split is missing or not chosen, or the classes differ.
    """
    path = Path(path)
    splits = list_splits(path)
    chosen = None if split is None else split_of_word(split)
    if split is not None and chosen is None:
        raise DataError(f"there is no split {split!r}; expected one of {', '.join(SPLITS)}")
    if chosen is None and splits:
        raise DataError(f"{path} has the splits {', '.join(splits)}; choose one of them")
    if chosen is not None and chosen not in splits:
        has = f"the splits {', '.join(splits)}" if splits else "no splits; open it without one"
        raise DataError(f"{path} has no {chosen} split; it has {has}")
    return _find_kind(path).open(path, chosen, classes)


def list_splits(path: str | Path) -> tuple[str, ...]:
    """The splits of a data set, of ``train``, ``val`` and ``test`` in this order; empty where it is not divided.

    Raises:
        DataError: there is no data set.
    """
    path = Path(path)
    found = _find_kind(path).list_splits(path)
    return tuple(split for split in SPLITS if split in found)


def _find_kind(path: Path) -> type[SourceKind]:
    if not os.path.exists(path):  # where Path.exists raises an error of a folder that may not be entered
        raise DataError(f"{path} does not exist, or its folder may not be entered; give {_UNDERSTOOD}")
    kind = next((kind for kind in KINDS if kind.detect(path)), None)
    if kind is None:
        raise DataError(f"{path} is not a data set that is understood; give {_UNDERSTOOD}")
    return kind
