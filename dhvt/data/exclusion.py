"""Images that are left out of a data set: those that a text file lists, and those that an earlier run left out."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dhvt.data.sources import ImageSource, Subset
from dhvt.data.text import count
from dhvt.errors import ConfigError, DataError


class ExcludeList:
    """The images that a text file names, one a line; empty lines and those that start with ``#`` are comments.

    An image is named by its path, absolute or relative to the current folder, or by its name within the data set, such as
    ``cat/0815.jpg`` or ``train-0.parquet row 7``. A line in double quotes is a JSON string, for names with line breaks,
    leading ``#`` or bytes that are no UTF-8; :func:`format_entry` writes them.

    Raises:
        ConfigError: the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")  # Windows writes a mark before it
        except OSError as error:
            raise ConfigError(f"cannot read --exclude {path}: {error.strerror}") from error
        stripped = (line.strip() for line in text.split("\n"))
        self.entries = [_parse_entry(line) for line in stripped if line and not line.startswith("#")]
        self._names = set(self.entries)
        self._paths = {os.path.abspath(entry): entry for entry in self.entries}
        self._matched: set[str] = set()

    def matches(self, source: ImageSource, index: int) -> bool:
        """Whether an image is listed."""
        name, place = source.name(index), os.path.abspath(source.locate(index))
        found = {self._paths[place]} if place in self._paths else set()
        found |= {name} & self._names
        self._matched |= found
        return bool(found)

    def leave_out(self, source: ImageSource) -> tuple[ImageSource, list[str]]:
        """The other images, and the names of those that are left out.

        Raises:
            DataError: none is left.
        """
        kept, names = [], []
        for index in range(len(source)):
            if self.matches(source, index):
                names.append(source.name(index))
            else:
                kept.append(index)
        if names and not kept:
            raise DataError(f"--exclude {self.path} lists all images of {source.origin}; none is left")
        return (keep(source, kept) if names else source), names

    @property
    def unmatched(self) -> list[str]:
        """The entries that no image had so far."""
        return [entry for entry in self.entries if entry not in self._matched]

    def describe_unmatched(self) -> str | None:
        """A line about :attr:`unmatched`; None where all were found."""
        left = self.unmatched
        if not left:
            return None
        names = ", ".join(map(format_entry, left[:5])) + (", …" if len(left) > 5 else "")
        return f"{self.path}: {len(left)} of {count(len(self.entries), 'entry')} name no image of these data: {names}"


def format_entry(name: str) -> str:
    """The line of an exclude list for a name: the name, or a JSON string where that could not be read again."""
    is_plain = name.isprintable() and name == name.strip() and name[:1] not in ("#", '"', "")
    return name if is_plain else json.dumps(name)


def _parse_entry(line: str) -> str:
    if line.startswith('"'):
        try:
            value = json.loads(line)
        except json.JSONDecodeError:
            return line
        if isinstance(value, str):
            return value
    return line


def keep(source: ImageSource, indices: Iterable[int]) -> Subset:
    """The images of these indices."""
    return Subset(source, np.fromiter(indices, dtype=np.int64))


def pack_names(names: Iterable[str]) -> str:
    """Names as 64-bit hashes in base64, so that a record tells which images were left out without naming them."""
    return base64.b64encode(np.array(sorted(map(_hash_name, names)), dtype="<u8").tobytes()).decode("ascii")


def leave_out_recorded(source: ImageSource, entry: Mapping[str, Any]) -> ImageSource:
    """The images without those whose names are in ``omitted`` of a record's entry, see :func:`pack_names`."""
    omitted = set(np.frombuffer(base64.b64decode(entry.get("omitted", "")), dtype="<u8").tolist())
    if not omitted:
        return source
    return keep(source, (index for index in range(len(source)) if _hash_name(source.name(index)) not in omitted))


def _hash_name(name: str) -> int:
    digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8)
    return int.from_bytes(digest.digest(), "little")
