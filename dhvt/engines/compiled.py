"""What a runtime compiled, kept on disk: the probe writes it, and the process that serves reads it in place of compiling."""

from __future__ import annotations

import logging
import os
import stat
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from dhvt.engines.cache import cache_folder, is_ours

logger = logging.getLogger(__name__)

KEPT_FILES = 8
"""Files that are kept; those that were not used for longest go first. One has once or twice the size of the model."""

Compiled = Mapping[str, bytes]
"""Compiled graphs by name."""


def compiled_path(key: str) -> Path | None:
    """The file of what was compiled under a key; None where there is no folder that only this user can write to."""
    folder = cache_folder("compiled")
    return None if folder is None or not is_ours(folder) else folder / f"{key}.npz"


def read_compiled(path: Path | None) -> Compiled | None:
    """The content of a file of :func:`write_compiled`; None where it is missing, damaged or of another user.

    A compiled graph is executed, so a file that somebody else could have written is not read.
    """
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            if found.st_uid != os.getuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                return None
            with np.load(file, allow_pickle=False) as arrays:  # the format has a checksum
                graphs = {name: arrays[name].tobytes() for name in arrays.files}
            with suppress(OSError):  # a file system that cannot be written to
                os.utime(file.fileno())
            return graphs
    except (OSError, ValueError, EOFError, BadZipFile, KeyError):
        return None


def write_compiled(path: Path | None, compiled: Compiled) -> None:
    """Keeps compiled graphs where that is possible, in one step, and removes those that were not used for longest."""
    if path is None:
        return
    temporary = None
    try:
        # The suffix is that of the files that are removed below: one that a killed process left goes too.
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, suffix=".npz")
        with open(descriptor, "wb") as file:
            np.savez(file, **{name: np.frombuffer(graph, np.uint8) for name, graph in compiled.items()})  # type: ignore[arg-type]  # its stub takes the names for allow_pickle
        os.replace(temporary, path)
        newest_first = sorted(path.parent.glob("*.npz"), key=lambda file: file.stat().st_mtime, reverse=True)
        for old in newest_first[KEPT_FILES:]:
            old.unlink(missing_ok=True)
    except OSError as error:
        logger.info("compiled graphs cannot be kept in %s: %s", path.parent, error.strerror)
        if temporary is not None:
            with suppress(OSError):
                Path(temporary).unlink(missing_ok=True)
