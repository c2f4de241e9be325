"""Class folders: ``root/<class>/<image>``, or ``root/train/<class>/<image>`` with a folder for each split."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from dhvt.data.formats import SUFFIXES, count_unread, describe_unread
from dhvt.data.sources.base import FileSource, ImageSource, find_files, is_hidden, refuse_folder, split_of_word
from dhvt.data.text import count
from dhvt.errors import DataError

_log = logging.getLogger(__name__)


class FolderSource(FileSource):
    """Images below one folder per class, at any depth; classes in alphabetical order. Hidden files are ignored.

    Raises:
        DataError: there are no images, or a class that is not in ``classes``; or a folder cannot be read.
    """

    description: ClassVar = "a folder with one folder per class"

    def __init__(self, root: Path, classes: Sequence[str] | None = None) -> None:
        names = [folder.name for folder in _folders(root)]
        classes = tuple(classes if classes is not None else names)
        unknown = sorted(set(names) - set(classes))
        if unknown:
            raise DataError(f"{root} has folders of classes that the model does not know: {', '.join(unknown[:5])}")
        paths: list[Path] = []
        labels: list[int] = []
        others: list[Path] = []
        for label, name in enumerate(classes):
            files = list(find_files(root / name, refuse_folder)) if name in names else []
            found = sorted(filter(_is_image, files))
            paths += found
            labels += [label] * len(found)
            others += [file for file in files if not _is_image(file)]
        _warn_of_others(root, others)
        if not paths:
            directly = sum(_is_image(file) for file in root.iterdir())
            where = f"{directly} images lie directly in it" if directly else "no images under it"
            raise DataError(
                f"{root}: {where}; expected {root}/<class name>/<image>, with endings {', '.join(sorted(SUFFIXES))}"
            )
        super().__init__(root, root, paths, labels, classes)

    @staticmethod
    def detect(path: Path) -> bool:
        return path.is_dir()

    @staticmethod
    def list_splits(path: Path) -> Sequence[str]:
        return tuple(_split_folders(path))

    @classmethod
    def open(cls, path: Path, split: str | None, classes: Sequence[str] | None) -> ImageSource:
        if split is None:
            return cls(path, classes)
        chosen = _split_folders(path)[split]
        ignored = [folder.name for folder in _folders(path) if split_of_word(folder.name) is None and _holds_images(folder)]
        if ignored:
            _log.warning("%s: ignored beside its splits: %s", path, ", ".join(ignored[:5]))
        return cls(chosen, classes)


def _folders(root: Path) -> list[Path]:
    try:
        return sorted(entry for entry in root.iterdir() if entry.is_dir() and not is_hidden(entry.name))
    except OSError as error:
        refuse_folder(error)


def _warn_of_others(root: Path, files: Sequence[Path]) -> None:
    """Logs which files of a data set's folders are not taken."""
    unread = count_unread(files)
    if unread:
        kinds = ", ".join(f"{number} {suffix} ({describe_unread(f'_{suffix}')})" for suffix, number in unread.items())
        images = count(sum(unread.values()), "image")
        _log.warning("%s: left out %s of formats that are not read: %s", root, images, kinds)
    others = len(files) - sum(unread.values())
    if others:
        _log.warning("%s: left out %s with another ending than an image's, such as .jpg", root, count(others, "file"))


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def _holds_images(folder: Path) -> bool:
    return any(map(_is_image, find_files(folder)))


def _split_folders(root: Path) -> dict[str, Path]:
    """The folder of each split; empty where ``root`` holds class folders, of which one may be called ``train``.

    Raises:
        DataError: it cannot be told which of both it is, or two folders stand for one split.
    """
    folders = _folders(root)
    found: dict[str, Path] = {}
    for folder in folders:
        split = split_of_word(folder.name)
        if split is not None and found.setdefault(split, folder) is not folder:
            raise DataError(f"{root} has {found[split].name} and {folder.name} for its {split} split; join or rename one")
    if not found or {"train"} < found.keys():
        return found
    others = [folder for folder in folders if folder not in found.values() and _holds_images(folder)]
    if not others:
        return found
    nested = next((folder for folder in found.values() if _folders(folder)), None)
    if nested is None:
        return {}
    raise DataError(
        f"{root} has {nested.name}, which holds folders as a split does, beside {', '.join(map(str, others[:5]))}, which are "
        f"no splits; give {nested} as the data, move the others elsewhere, or, if all are classes, rename {nested.name}"
    )
