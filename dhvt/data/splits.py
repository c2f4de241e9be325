"""Data sets: which source a path is, its training and validation parts, and how its classes are balanced."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dhvt.data.fingerprint import fingerprint
from dhvt.data.sources import CIFARSource, FolderSource, ImageSource, ListSource, ParquetSource, Subset
from dhvt.errors import ConfigError, DataError

TRAINING, VALIDATION, TEST = ("train", "training"), ("val", "valid", "validation", "dev"), ("test", "testing")
SPLITS = {"train": TRAINING, "val": (*VALIDATION, *TEST), "test": (*TEST, *VALIDATION)}
PARTS = frozenset({*TRAINING, *VALIDATION, *TEST})
DEFAULT_VAL_FRACTION = 0.1


def open_dataset(path: str | Path, split: str | None = None, classes: Sequence[str] | None = None) -> ImageSource:
    """Opens images at ``path``.

    Args:
        path: a ``.parquet`` file, a folder of them, a folder of class folders, or a folder with one per split;
            a ``.txt`` list of DomainNet or the folder of its lists; the folder where torchvision keeps CIFAR.
        split: where there are parts, ``train``; ``val`` for the validation part, else the test part; ``test`` for the
            test part, else the validation part.
        classes: the class names that labels must refer to; a model's, when it is evaluated.

    Raises:
        DataError: nothing usable is there.
    """
    root = Path(path)
    if root.suffix == ".txt":
        return ListSource([_list_of_split(root, split)], classes)
    if root.is_file():
        return ParquetSource([root], classes)
    if not root.is_dir():
        raise DataError(f"{root} does not exist; give a Parquet file or a folder with one folder per class")
    cifar = _cifar_folder(root)
    if cifar is not None:
        return CIFARSource(cifar, train=split in (None, "train"), classes=classes)
    parquet = sorted(root.glob("*.parquet"))
    if parquet:
        chosen = _of_split(parquet, split, _part_of_file)
        if split == "train" and not chosen and any(map(_part_of_file, parquet)):
            names = ", ".join(file.name for file in parquet)
            raise DataError(f"{root} has {names}, but no train part; name it train.parquet, or name one file as the data")
        return ParquetSource(chosen or parquet, classes)
    lists = sorted(root.glob("*_train.txt"))
    if lists:
        return ListSource([_list_of_split(path, split) for path in lists], classes)
    return FolderSource(_part_folder(root, split or "train"), classes)


def has_validation(root: Path) -> bool:
    """Whether a data set holds a validation part beside its training part.

    A test part is none. What a model is chosen and calibrated by must not be what it is finally measured on.
    """
    if not root.is_dir() or _cifar_folder(root) is not None:
        return False
    names = {_part_of_file(file) for file in root.glob("*.parquet")}
    if not names and not any(root.glob("*_train.txt")):
        names = {_part_of_folder(folder) for folder in _folders(root)}
    return bool(names & set(TRAINING) and names & set(VALIDATION))


def _folders(root: Path) -> list[Path]:
    return [entry for entry in sorted(root.iterdir()) if entry.is_dir() and not entry.name.startswith(".")]


def _part_folder(root: Path, split: str) -> Path:
    """Where the class folders of a part are: ``root`` itself unless its folders are parts."""
    folders = _folders(root)
    names = {_part_of_folder(folder) for folder in folders}
    if not names or not (names <= PARTS or all(names & set(aliases) for aliases in SPLITS.values())):
        return root
    chosen = _of_split(folders, split, _part_of_folder) or _of_split(folders, "train", _part_of_folder)
    if not chosen:
        raise DataError(f"{root} has {', '.join(sorted(names))} but no train part; expected {root}/train/<class>/<image>")
    return chosen[0]


def _part_of_folder(folder: Path) -> str:
    return folder.name.lower()


def _part_of_file(file: Path) -> str:
    """``test`` of ``test-00000-of-00001.parquet`` or ``cifar10-test.parquet``; empty where the name has no part's."""
    return next((word for word in re.split(r"[-_.]", file.stem.lower()) if word in PARTS), "")


def _cifar_folder(root: Path) -> Path | None:
    """``root`` or a folder in it, where torchvision's CIFAR files are."""
    return next((path for path in (root, *(root / name for name in CIFARSource.FOLDERS)) if _is_cifar(path)), None)


def _is_cifar(path: Path) -> bool:
    return path.name in CIFARSource.FOLDERS and path.is_dir()


def _list_of_split(path: Path, split: str | None) -> Path:
    """``clipart_test.txt`` for ``clipart_train.txt``, where the validation or test part is asked for."""
    return path if split in (None, "train") else path.with_name(path.name.replace("_train.txt", "_test.txt"))


def _of_split(entries: list[Path], split: str | None, name: Callable[[Path], str]) -> list[Path]:
    for alias in SPLITS.get(split or "", ()):
        chosen = [entry for entry in entries if name(entry) == alias]
        if chosen:
            return chosen
    return []


def split_source(source: ImageSource, fraction: float, seed: int) -> tuple[Subset, Subset]:
    """A training and a validation part, the latter with ``fraction`` of each class; of two images or more, each has some.

    Raises:
        DataError: nothing would be left for one of the two.
    """
    rng = np.random.default_rng(seed)
    held: list[NDArray[np.int64]] = []
    for label in range(len(source.classes)):
        rows = rng.permutation(np.flatnonzero(source.labels == label))
        count = min(max(round(len(rows) * fraction), 1), len(rows) - 1) if len(rows) > 1 else 0
        held.append(rows[:count])
    val = np.sort(np.concatenate(held))
    train = np.setdiff1d(np.arange(len(source)), val)
    if not len(val) or not len(train):
        raise DataError(f"{len(source)} images cannot be split with a validation fraction of {fraction}")
    return Subset(source, train), Subset(source, val)


class TrainingData(NamedTuple):
    """What a training learns from and is measured on.

    Args:
        train, val: the images, with the same classes.
        val_fraction: of the training part, that ``val`` was held out of it; None where it is a part of its own.
        measured_on: what ``val`` is, in words.
    """

    train: ImageSource
    val: ImageSource
    val_fraction: float | None
    measured_on: str


def open_training_data(
    data: str | Path, val: str | Path | None = None, val_fraction: float | None = None, seed: int = 0
) -> TrainingData:
    """The images to train on, and others to measure on: those of ``val``, else the data's validation part, else held out.

    Args:
        data, val: as for :func:`open_dataset`. Of ``val``, the validation part is taken or else the test part.
        val_fraction: of each class, to hold out of the training part; :data:`DEFAULT_VAL_FRACTION` unless given.
        seed: of what is held out.

    Raises:
        ConfigError: ``val_fraction`` is given where nothing is going to be held out.
        DataError: nothing usable is there, or there is one class only.
    """
    source = open_dataset(data, "train")
    if len(source.classes) < 2:
        raise DataError(
            f"{data} has one class only, {source.classes[0]}; expected {data}/<class>/<image> or "
            f"{data}/train/<class>/<image> with two classes or more"
        )
    own = "--val" if val is not None else "a validation part" if has_validation(Path(data)) else None
    if own is None:
        fraction = DEFAULT_VAL_FRACTION if val_fraction is None else val_fraction
        return TrainingData(*split_source(source, fraction, seed), fraction, f"{fraction:.3g} of each class, held out")
    if val_fraction is not None:
        raise ConfigError(f"--val-fraction {val_fraction} would hold nothing out, because there is {own}; leave one away")
    measured_on = f"of {val}" if val is not None else f"the validation part of {data}"
    return TrainingData(source, open_dataset(val or data, "val", source.classes), None, measured_on)


def reopen_training_data(
    data: str | Path, classes: Sequence[str], record: Mapping[str, Any], seed: int
) -> tuple[ImageSource, ImageSource, bool]:
    """The training and validation part of ``data``, held out again as in the training where it is the training's data.

    Args:
        data: as for :func:`open_dataset`.
        classes: the model's.
        record: the checkpoint's ``data``; empty in older ones.
        seed: of the training's recipe.

    Returns:
        The two parts, and whether the second is known to be what the training measured on and did not learn from.
    """
    train = open_dataset(data, "train", classes)
    fraction = record.get("val_fraction")
    if fraction is not None and len(train) == record["train_images"] + record["val_images"]:
        parts = split_source(train, fraction, seed)
        if [fingerprint(part).digest for part in parts] == [record["train"], record["val"]]:
            return *parts, True
    val = open_dataset(data, "val", classes)
    return train, val, fingerprint(val).digest == record.get("val") != record.get("train")
