"""The results of probes on disk: one small file each, named after the facts that the result depends on."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from dhvt.engines.cache import cache_folder, make_folder
from dhvt.engines.speed import Speed

logger = logging.getLogger(__name__)

MAX_AGE_S = 24 * 3600
"""How long a failure is remembered, and a speed that was measured on a busy machine. A pass and any other speed are remembered
until something changes that they depend on."""

_CRASHES = frozenset({signal.SIGFPE, signal.SIGILL, signal.SIGSEGV, signal.SIGABRT})
"""Signals that a runtime's own fault raises. The others come from outside: SIGKILL from the kernel that is out of memory or
from a person, SIGTERM from a shutdown, SIGBUS from a full disk."""

_SHORTAGES = (
    "bad_alloc",
    "out of memory",
    "cannot allocate memory",
    "memoryerror",
    "resource temporarily unavailable",
    "can't start new thread",
    "too many open files",
    "no space left on device",
)


def is_lasting_crash(number: int, words: str) -> bool:
    """Whether a process that a signal ended would end in the same way again.

    Args:
        number: of the signal.
        words: what the process wrote to stderr.
    """
    # C++ aborts when memory or threads are short, which is over when another process ends.
    return number in _CRASHES and not any(text in words.lower() for text in _SHORTAGES)


def result_path(facts: Sequence[object]) -> Path | None:
    """The file of a result that depends on these facts; None where results cannot be kept safely."""
    folder = cache_folder("engines")
    return None if folder is None else folder / key_of(facts)


def key_of(facts: Sequence[object]) -> str:
    """A file name for what depends on these facts."""
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """What a probe found.

    Args:
        failure: why the candidate failed; None if it passed.
        speed: that was measured; None where it failed, or was proved alone.
    """

    failure: str | None = None
    speed: Speed | None = None


def read_result(path: Path | None) -> ProbeResult | None:
    """What is remembered; None if nothing is, or a failure that is too old."""
    if path is None:
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        age_s = time.time() - path.stat().st_mtime
        speed = values["speed"]
        result = ProbeResult(failure=values["failure"], speed=None if speed is None else Speed(**speed))
    except (OSError, ValueError, TypeError, KeyError):  # it does not exist, may not be read, or is no result
        return None
    if age_s <= MAX_AGE_S:
        return result
    if result.speed is not None and result.speed.busy:
        return ProbeResult()
    return None if result.failure is not None else result


def write_result(path: Path | None, result: ProbeResult) -> None:
    """Remembers a result where that is possible, in one step."""
    if path is None:
        return
    temporary = None
    try:
        make_folder(path.parent)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent)
        with open(descriptor, "w", encoding="utf-8") as file:
            json.dump(asdict(result), file)
        os.replace(temporary, path)
    except OSError as error:
        logger.info("the result of a probe cannot be kept in %s: %s", path.parent, error.strerror)
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
