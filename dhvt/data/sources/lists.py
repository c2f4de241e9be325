"""DomainNet's published lists: text files with ``clipart/zebra/clipart_345_000115.jpg 344`` in each line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from dhvt.data.sources.base import FileSource, ImageSource, is_hidden, refuse_identifiers
from dhvt.errors import DataError

_TRAIN, _TEST = "_train.txt", "_test.txt"


class ListSource(FileSource):
    """Images named in one list or several, such as those of several domains.

    Paths are relative to their list's folder; a class is named after its images' folder. Given ``clipart_train.txt``, the
    test split is ``clipart_test.txt`` beside it; given a folder, all such lists in it are joined.

    Raises:
        DataError: a list cannot be read, has another layout, gives one label to two folders or a folder two labels, or has
            other classes.
    """

    description: ClassVar = "one of DomainNet's lists, or the folder of them"

    def __init__(self, origin: Path, lists: Sequence[Path], classes: Sequence[str] | None = None) -> None:
        paths: list[Path] = []
        labels: list[int] = []
        names: dict[int, str] = {}
        label_of: dict[str, int] = {}
        for path in lists:
            for number, line in _read_lines(path):
                image, label = _parse_line(line, path, number)
                name = image.parent.name
                if names.setdefault(label, name) != name:
                    raise DataError(f"{path} line {number} gives label {label} to {name}; it was {names[label]}'s")
                if label_of.setdefault(name, label) != label:
                    raise DataError(
                        f"{path} line {number} gives label {label} to {name}, which has label {label_of[name]}; a class is "
                        "named after its images' folder: correct the label, or put each class's images into their own folder"
                    )
                paths.append(path.parent / image)
                labels.append(label)
        if not labels:
            raise DataError(f"{lists[0]} lists no images")
        if classes is None:
            refuse_identifiers(np.array(labels), str(lists[0]))
        classes = tuple(classes or (names.get(label, str(label)) for label in range(max(labels) + 1)))
        wrong = next((label for label, name in names.items() if classes[label : label + 1] != (name,)), None)
        if wrong is not None:
            raise DataError(f"{lists[0]} calls class {wrong} {names[wrong]}; the model knows {', '.join(classes[:5])}…")
        super().__init__(origin, lists[0].parent, paths, labels, classes)

    @staticmethod
    def detect(path: Path) -> bool:
        return bool(_training_lists(path)) if path.is_dir() else path.suffix == ".txt"

    @staticmethod
    def list_splits(path: Path) -> Sequence[str]:
        lists = _training_lists(path)
        if not lists:
            return ()
        return ("train", "test") if all(_test_list(file).exists() for file in lists) else ("train",)

    @classmethod
    def open(cls, path: Path, split: str | None, classes: Sequence[str] | None) -> ImageSource:
        lists = [path] if split is None else _training_lists(path)
        return cls(path, [_test_list(file) for file in lists] if split == "test" else lists, classes)


def _training_lists(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(file for file in path.glob(f"*{_TRAIN}") if not is_hidden(file.name))
    return [path] if path.name.endswith(_TRAIN) else []


def _test_list(training_list: Path) -> Path:
    return training_list.with_name(training_list.name.removesuffix(_TRAIN) + _TEST)


def _parse_line(line: str, path: Path, number: int) -> tuple[Path, int]:
    name, _, label = line.rpartition(" ")
    image = Path(name)
    if not name or not (label.isascii() and label.isdecimal()) or len(image.parts) < 2 or image.is_absolute():
        raise DataError(f"{path} line {number} is {line!r}; expected <domain>/<class>/<image> <label>")
    return image, int(label)


def _read_lines(path: Path) -> list[tuple[int, str]]:
    """The lines that are not empty, with their numbers."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()  # Windows writes a mark before it
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path} as a list of images: {error}") from error
    return [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
