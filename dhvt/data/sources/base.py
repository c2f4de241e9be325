"""What a source of labelled images is, the splits of a data set, and a selection of a source's images."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar, NoReturn, Protocol

import numpy as np
from numpy.typing import NDArray

from dhvt.data.decode import read_file
from dhvt.errors import ConfigError, DataError

SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
"""The splits by their names here, and the words that files and folders have for them, in any case."""

_SPLIT_OF_WORD = {word: split for split, words in SPLITS.items() for word in words}
_CLUTTER = frozenset({"__MACOSX", "@eaDir"})  # of macOS's archives and Synology's disks; the latter holds thumbnails


class ImageSource(Protocol):
    """Labelled encoded images, addressed by 0 ≤ index < len."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; a label is an index into them."""
        ...

    @property
    def labels(self) -> NDArray[np.int64]:
        """``(len,)``, each in ``0 … len(classes) - 1``."""
        ...

    @property
    def origin(self) -> str:
        """The file or folder that it was opened from, for messages and records."""
        ...

    def __len__(self) -> int: ...

    def read(self, index: int) -> bytes:
        """One encoded image. Raises :class:`dhvt.errors.ImageError` when it cannot be read."""
        ...

    def locate(self, index: int) -> str:
        """Where the image is, for a message: a path, and the row in a Parquet file."""
        ...

    def name(self, index: int) -> str:
        """The image's name within the data set, wherever that is stored: a path below its root, a file name and row."""
        ...

    def path(self, index: int) -> Path | None:
        """The file that holds this image and nothing else; None where there is no such file."""
        ...

    def groups(self, by: str, indices: NDArray[np.int64] | None = None) -> list[str]:
        """The group of each image, such as a person, which splits must not divide.

        Args:
            by: a regular expression, searched in each :meth:`name`, whose first group or else whole match is the group's
                name; of Parquet files the name of a column.
            indices: of the images that are asked for, in their order; None asks for all. Others need no group.

        Raises:
            DataError: one of these images has no group, or the files no such column.
            ConfigError: ``by`` is no regular expression.
        """
        ...


class SourceKind(Protocol):
    """A kind of data set. A class of this shape is one line in :mod:`dhvt.data.sources.registry`."""

    description: ClassVar[str]
    """What a path of this kind is, for messages: ``a Parquet file``."""

    @staticmethod
    def detect(path: Path) -> bool:
        """Whether an existing file or folder is of this kind."""
        ...

    @staticmethod
    def list_splits(path: Path) -> Sequence[str]:
        """The keys of :data:`SPLITS` that a data set of this kind has; empty where it is not divided."""
        ...

    @classmethod
    def open(cls, path: Path, split: str | None, classes: Sequence[str] | None) -> ImageSource:
        """Opens one of :meth:`list_splits`; ``split`` is None exactly where there are none.

        Args:
            classes: the class names that labels must refer to, such as a model's; None takes the data set's own.

        Raises:
            DataError: it cannot be read, or has other classes.
        """
        ...


class FileSource:
    """Labelled images in one file each; the base of sources that differ in how they find the files and labels.

    Args:
        root: the folder that all paths are below, and that :meth:`name` is relative to.

    Raises:
        DataError: a path is not below the root.
    """

    def __init__(self, origin: Path, root: Path, paths: list[Path], labels: list[int], classes: Sequence[str]) -> None:
        outside = next((path for path in paths if not path.is_relative_to(root)), None)
        if outside is not None:
            raise DataError(f"{origin} names {outside}, which is not below {root}")
        self.origin, self._root, self._paths = str(origin), root, paths
        self.labels = np.array(labels, dtype=np.int64)
        self.classes = tuple(classes)

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, index: int) -> bytes:
        return read_file(self._paths[index])

    def locate(self, index: int) -> str:
        return str(self._paths[index])

    def name(self, index: int) -> str:
        return self._paths[index].relative_to(self._root).as_posix()

    def path(self, index: int) -> Path | None:
        return self._paths[index]

    def groups(self, by: str, indices: NDArray[np.int64] | None = None) -> list[str]:
        chosen = range(len(self)) if indices is None else indices.tolist()
        return groups_of_names([self.name(index) for index in chosen], by, self.origin)


class Subset:
    """Some images of another source, in the order given."""

    def __init__(self, source: ImageSource, indices: NDArray[np.int64]) -> None:
        self._source, self._indices = source, indices
        self.classes, self.origin = source.classes, source.origin
        self.labels = source.labels[indices]

    def __len__(self) -> int:
        return len(self._indices)

    def read(self, index: int) -> bytes:
        return self._source.read(int(self._indices[index]))

    def locate(self, index: int) -> str:
        return self._source.locate(int(self._indices[index]))

    def name(self, index: int) -> str:
        return self._source.name(int(self._indices[index]))

    def path(self, index: int) -> Path | None:
        return self._source.path(int(self._indices[index]))

    def groups(self, by: str, indices: NDArray[np.int64] | None = None) -> list[str]:
        return self._source.groups(by, self._indices if indices is None else self._indices[indices])


def refuse_identifiers(labels: NDArray[np.int64], origin: str) -> None:
    """Refuses numbers that leave most classes without an image, since each up to the highest would be a class.

    Raises:
        DataError: they make more than 1,000 classes, and more than ten times those with images.
    """
    low, top, different = int(labels.min()), int(labels.max()), len(np.unique(labels))
    if top + 1 > max(1000, 10 * different):
        raise DataError(
            f"{origin} has labels from {low} to {top}, but only {different} different ones and no class names; number the "
            "classes from 0, without gaps, or give their names as labels"
        )


def groups_of_names(names: Sequence[str], by: str, origin: str) -> list[str]:
    """The groups that a regular expression finds in images' names, see :meth:`ImageSource.groups`."""
    try:
        pattern = re.compile(by)
    except re.error as error:
        raise ConfigError(f"--group-by {by!r} is no regular expression: {error}") from error
    matches = [pattern.search(name) for name in names]
    groups = [None if match is None else match[1 if pattern.groups else 0] for match in matches]
    without = [name for name, group in zip(names, groups, strict=True) if not group]
    if without:
        raise DataError(
            f"--group-by {by!r} finds no group in the names of {len(without)} of {len(names)} images in {origin}, such as "
            f"{without[0]}; it must match every name, and its first group, or all that it matches, not be empty: correct it, "
            "or leave these images out with --exclude"
        )
    return [str(group) for group in groups]


def split_of_word(word: str) -> str | None:
    """``val`` of ``Validation``; None of a word that is no name of a split."""
    return _SPLIT_OF_WORD.get(word.lower())


def split_of_file(path: Path) -> str | None:
    """``test`` of ``test-00000-of-00001.parquet`` or ``stress-train-test.parquet``, the last; None where the name has none."""
    return next(filter(None, map(split_of_word, reversed(re.split(r"[-_.]", path.stem)))), None)


def is_hidden(name: str) -> bool:
    """Whether a file or folder is no data: hidden, such as ``.ipynb_checkpoints`` and ``._cat.png``, or a system's own."""
    return name.startswith(".") or name in _CLUTTER


def find_files(folder: Path, on_error: Callable[[OSError], None] | None = None) -> Iterator[Path]:
    """All files at any depth but hidden ones; folders that cannot be read are omitted without ``on_error``."""
    for parent, names, files in walk(folder, on_error):
        names[:] = [name for name in names if not is_hidden(name)]
        yield from (Path(parent, file) for file in files if not is_hidden(file))


def refuse_folder(error: OSError) -> NoReturn:
    """Raises a DataError that names the folder which cannot be read."""
    raise DataError(f"cannot read the folder {error.filename}: {error.strerror}") from error


def walk(folder: Path, on_error: Callable[[OSError], None] | None = None) -> Iterator[tuple[str, list[str], list[str]]]:
    """As :func:`os.walk`, and into linked folders too: each once, and none that ``folder`` lies in."""
    seen = set(map(str, Path(os.path.realpath(folder)).parents))
    for parent, names, files in os.walk(folder, onerror=on_error, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            names.clear()
            continue
        seen.add(real)
        yield parent, names, files
