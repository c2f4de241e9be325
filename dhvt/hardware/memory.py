"""How much memory is left for this process."""

from __future__ import annotations

from pathlib import Path

import psutil

_CGROUP_FILES = (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))


def available_memory(root: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes of main memory that are not in use, here and within a container's limit."""
    available = int(psutil.virtual_memory().available)
    for limit, usage in _CGROUP_FILES:
        try:
            left = int((root / limit).read_text()) - int((root / usage).read_text())
        except (OSError, ValueError):  # no such limit, or "max"
            continue
        available = min(available, max(left, 0))
    return available
