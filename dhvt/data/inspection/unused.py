"""The files of a data set's folders that are not used, and why, so that none is lost silently."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from dhvt.data.formats import SUFFIXES, describe_unread
from dhvt.data.sources.base import is_hidden, walk


class UnusedFiles(NamedTuple):
    """Args:
    unread: images of formats that are not read.
    misplaced: images that are in no class's folder, or beside the splits.
    others: files that are no images.
    hidden: hidden files, and those in hidden folders or a system's own.
    """

    unread: list[Path]
    misplaced: list[Path]
    others: list[Path]
    hidden: list[Path]


def find_unused(roots: Iterable[Path], used: Iterable[Path]) -> UnusedFiles:
    """All files below some folders that are not among the used ones.

    Args:
        roots: a folder below another one is not searched twice; what is no folder is ignored.
    """
    taken = {os.path.abspath(path) for path in used}
    found = UnusedFiles([], [], [], [])
    folders = sorted({Path(os.path.abspath(root)) for root in roots if root.is_dir()})
    top = [folder for folder in folders if not any(other in folder.parents for other in folders)]
    for folder in top:
        for parent, names, files in walk(folder):
            names.sort()
            for name in sorted(files):
                path = Path(parent, name)
                if str(path) not in taken:
                    _list_of(found, path.relative_to(folder)).append(path)
    return found


def _list_of(found: UnusedFiles, path: Path) -> list[Path]:
    if any(map(is_hidden, path.parts)):
        return found.hidden
    if describe_unread(path) is not None:
        return found.unread
    return found.misplaced if path.suffix.lower() in SUFFIXES else found.others
