"""What the trials of engines found, remembered on disk: one small file each, named after all that a result depends on."""

from __future__ import annotations

import logging
import os
import signal
import tempfile
from pathlib import Path

logger = logging.getLogger(__name__)

CRASHES = frozenset({signal.SIGFPE, signal.SIGILL, signal.SIGSEGV, signal.SIGABRT})
"""Ends that are the runtime's own doing, and will be the same next time. The others come from outside: SIGKILL of the
kernel that is out of memory or of a person, SIGTERM of a shutdown, SIGBUS of a full disk."""

_OUT_OF_MEMORY = ("bad_alloc", "out of memory", "cannot allocate memory", "memoryerror")


def is_lasting_crash(number: int, words: str) -> bool:
    """Whether a process that a signal ended would end so again.

    Args:
        number: of the signal.
        words: what the process wrote to stderr.
    """
    # C++ aborts when there is no memory to be had, which tomorrow there may be.
    return number in CRASHES and not any(text in words.lower() for text in _OUT_OF_MEMORY)


def read_verdict(path: Path) -> str | None:
    """Why the trial failed, an empty string when it passed, None where nothing is remembered."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:  # it is not there, or may not be looked at
        return None


def write_verdict(path: Path, failure: str = "") -> None:
    """Remembers it where that is possible; in one step, because an empty file is a pass."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(failure)
        os.replace(temporary, path)
    except OSError as error:
        logger.info("the result of a trial cannot be remembered in %s: %s", path.parent, error.strerror)
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
