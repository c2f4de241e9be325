"""Data sets: which source a path is, its training and validation parts, and how its classes are balanced."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dhvt.config import Preprocess
from dhvt.errors import DataError, ImageError
from dhvt.preprocess import preprocess
from dhvt.sources import CIFARSource, FolderSource, ImageSource, ListSource, ParquetSource, Subset

SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation", "test", "dev")}


def open_source(path: str | Path, split: str | None = None, classes: Sequence[str] | None = None) -> ImageSource:
    """Opens pictures at ``path``.

    Args:
        path: a ``.parquet`` file, a folder of them, a folder of class folders, or a folder with one per split;
            a ``.txt`` list of DomainNet or the folder of its lists; the folder where torchvision keeps CIFAR.
        split: ``train`` or ``val``, where the folder has splits.
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
        return CIFARSource(cifar, train=split != "val", classes=classes)
    parquet = sorted(root.glob("*.parquet"))
    if parquet:
        chosen = _of_split(parquet, split, lambda file: file.stem.split("-")[0])
        return ParquetSource(chosen or parquet, classes)
    lists = sorted(root.glob("*_train.txt"))
    if lists:
        return ListSource([_list_of_split(path, split) for path in lists], classes)
    folders = [entry for entry in sorted(root.iterdir()) if entry.is_dir()]
    chosen = _of_split(folders, split or "train", lambda folder: folder.name)
    return FolderSource(chosen[0] if chosen and has_splits(root) else root, classes)


def has_splits(root: Path) -> bool:
    """Whether a data set holds a training and a validation part."""
    if root.suffix == ".txt":
        return _list_of_split(root, "val") != root and _list_of_split(root, "val").exists()
    if not root.is_dir():
        return False
    if _cifar_folder(root) is not None or any(root.glob("*_train.txt")):
        return True
    entries = list(root.glob("*.parquet")) or [entry for entry in root.iterdir() if entry.is_dir()]
    names = {entry.stem.split("-")[0] if entry.suffix == ".parquet" else entry.name for entry in entries}
    return all(names & set(aliases) for aliases in SPLITS.values())


def _cifar_folder(root: Path) -> Path | None:
    """``root`` or a folder in it, where torchvision's CIFAR files are."""
    return next((path for path in (root, *(root / name for name in CIFARSource.FOLDERS)) if _is_cifar(path)), None)


def _is_cifar(path: Path) -> bool:
    return path.name in CIFARSource.FOLDERS and path.is_dir()


def _list_of_split(path: Path, split: str | None) -> Path:
    """``clipart_test.txt`` for ``clipart_train.txt``, where the validation part is asked for."""
    return path.with_name(path.name.replace("_train.txt", "_test.txt")) if split == "val" else path


def _of_split(entries: list[Path], split: str | None, name: Callable[[Path], str]) -> list[Path]:
    for alias in SPLITS.get(split or "", ()):
        chosen = [entry for entry in entries if name(entry) == alias]
        if chosen:
            return chosen
    return []


def split_source(source: ImageSource, fraction: float, seed: int) -> tuple[Subset, Subset]:
    """A training and a validation part, the latter with ``fraction`` of each class (at least one of two or more).

    Raises:
        DataError: nothing would be left for one of the two.
    """
    rng = np.random.default_rng(seed)
    held: list[NDArray[np.int64]] = []
    for label in range(len(source.classes)):
        rows = rng.permutation(np.flatnonzero(source.labels == label))
        count = max(round(len(rows) * fraction), 1) if len(rows) > 1 else 0
        held.append(rows[:count])
    val = np.sort(np.concatenate(held))
    train = np.setdiff1d(np.arange(len(source)), val)
    if not len(val) or not len(train):
        raise DataError(f"{len(source)} pictures cannot be split with a validation fraction of {fraction}")
    return Subset(source, train), Subset(source, val)


def fingerprint(source: ImageSource) -> str:
    """16 hexadecimal digits that stand for the pictures' names, labels and order, but not for where they lie."""
    digest = hashlib.sha256()
    for index, label in enumerate(source.labels.tolist()):
        digest.update(f"{source.name(index)}\0{label}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]


def class_counts(source: ImageSource) -> dict[str, int]:
    """Pictures per class name."""
    counts = Counter(source.labels.tolist())
    return {name: counts[label] for label, name in enumerate(source.classes)}


IMBALANCE = 10
"""Beyond this many times as many pictures in the largest class as in the smallest, top-1 alone misleads."""


def describe_balance(source: ImageSource) -> str:
    """One line on how many pictures the classes have, and one more where that needs a second look."""
    counts = class_counts(source)
    few, many = (choose(counts, key=lambda name: counts[name]) for choose in (min, max))
    if counts[few] == counts[many]:
        return f"{len(counts)} classes of {counts[few]} pictures"
    line = f"{len(counts)} classes of {counts[few]} ({few}) to {counts[many]} ({many}) pictures"
    empty = [name for name in counts if not counts[name]]
    if empty:
        line += f"\n{len(empty)} of them have none and cannot be learned: {', '.join(empty[:5])}"
    elif counts[many] > IMBALANCE * counts[few]:
        times = counts[many] / counts[few]
        line += f"\n{many} has {times:.0f} times the pictures of {few}: read the accuracy per class in the report"
    return line


class Batch(NamedTuple):
    """Preprocessed pictures: images ``(B, H, W, 3)`` uint8, labels and places in the source, each ``(B,)`` int64."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    indices: NDArray[np.int64]


def iterate_batches(
    source: ImageSource, cfg: Preprocess, batch_size: int, on_error: Callable[[str], None] | None = None
) -> Iterator[Batch]:
    """Preprocessed batches in order.

    Args:
        on_error: called with a message for each broken picture, which is then left out; ``None`` raises instead.

    Raises:
        DataError: a broken picture, naming its place, when ``on_error`` is None.
    """
    images: list[NDArray[np.uint8]] = []
    indices: list[int] = []
    for index in range(len(source)):
        try:
            images.append(preprocess(source.read(index), cfg))
            indices.append(index)
        except ImageError as error:
            message = f"{source.locate(index)}: {error}"
            if on_error is None:
                raise DataError(message) from error
            on_error(message)
        if images and (len(images) == batch_size or index == len(source) - 1):
            places = np.array(indices, dtype=np.int64)
            yield Batch(np.stack(images), source.labels[places], places)
            images, indices = [], []
