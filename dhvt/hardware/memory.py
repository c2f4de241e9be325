"""How much memory is left for this process."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import psutil

_CGROUP_FILES = (  # limit, usage, the file with what of it the system would give up, and its name there: version 2, version 1
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
)


def available_memory(root: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes of main memory that are not in use, here and within a container's limit.

    Files that were read and are kept in case they are read again do not count as in use.
    """
    available = int(psutil.virtual_memory().available)
    for limit, usage, stat, kept in _CGROUP_FILES:
        try:
            left = int((root / limit).read_text()) - int((root / usage).read_text())
        except (OSError, ValueError):  # no such limit, or "max"
            continue
        with suppress(OSError, KeyError, ValueError):
            left += int(dict(line.split() for line in (root / stat).read_text().splitlines())[kept])
        available = min(available, max(left, 0))
    return available
