"""The image files that a command line names: files, folders and patterns."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from dhvt.data.formats import SUFFIXES
from dhvt.data.sources.base import find_files, refuse_folder


def find_images(names: Sequence[str]) -> list[Path]:
    """Returns the files, each once, in the order that is given.

    Args:
        names: a file, which is taken whatever its ending is; a folder, of which all images at any depth are taken, in the order
            of their paths; or a pattern with ``*``, ``?`` or ``[]``, where ``**`` stands for folders at any depth.

    Raises:
        click.UsageError: a folder has no image, or a pattern matches none.
        DataError: a folder cannot be read.
    """
    found = dict.fromkeys(path for name in names for path in _expand(name))
    return list(found)


def _expand(name: str) -> Iterator[Path]:
    path = Path(name)
    if os.path.isdir(name):
        images = sorted(file for file in find_files(path, refuse_folder) if file.suffix.lower() in SUFFIXES)
        if not images:
            raise click.UsageError(f"{path} has no images, files with endings {', '.join(sorted(SUFFIXES))}")
        yield from images
    elif os.path.exists(name) or not glob.has_magic(name):
        yield path
    else:
        matches = [Path(match) for match in sorted(glob.glob(name, recursive=True))]
        if not matches:
            raise click.UsageError(f"nothing matches {name}")
        yield from (match for match in matches if match.is_file())
