"""Keeps a second training out of a run's folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
    import fcntl

    path = folder / LOCK_NAME
    try:
        file = path.open("w")
    except OSError as error:
        raise TrainError(f"cannot write into {folder}: {error.strerror}; choose another --out") from error
    with file:  # a lock of fcntl's, unlike one of flock's, is not inherited by the loader's workers, which outlive a kill -9
        busy = TrainError(f"another process trains into {folder}; wait for it, stop it, or choose another --out")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            raise busy from error
        except OSError:  # the file system has no locks
            pass
        if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
            raise busy  # who held it has just ended and removed the file; a third may have made another
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
