"""Keeps a second training out of a run's folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from dhvt.errors import TrainError

LOCK_NAME = ".lock"


@contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """Locks a folder for this process; the system unlocks it where the process is killed.

    Not on Windows, nor on a file system without locks: nothing is kept out there.

    Raises:
        TrainError: another process trains into the folder, on this machine or on another that shares it.
    """
    if sys.platform == "win32":
        yield
        return
    path = folder / LOCK_NAME
    with _lock(path):
        try:
            yield
        finally:
            with suppress(OSError):  # a file that is left is no lock
                path.unlink()


def _lock(path: Path) -> IO[str]:
    """The file, locked until it is closed.

    A lock of ``lockf``, unlike one of ``flock``, is not inherited by the loader's workers, which outlive a kill -9.
    """
    import fcntl

    busy = TrainError(f"another process trains into {path.parent}; wait for it, stop it, or choose another --out")
    for _ in range(3):
        try:
            file = path.open("w")
        except OSError as error:
            raise TrainError(f"cannot write {path}: {error.strerror}; remove it, or choose another --out") from error
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            file.close()
            raise busy from error
        except OSError:  # the file system has no locks
            return file
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()  # who held it has removed it in this moment
    raise busy
