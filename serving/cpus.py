"""How many processors this process may use."""

from __future__ import annotations

import os
from pathlib import Path


def available_cpus() -> int:
    """Processors by affinity and cgroup quota, at least 1; ``os.cpu_count()`` knows of neither."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup_quota()
    return max(min(cpus, cpus if quota is None else round(quota)), 1)


def _cgroup_quota(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Processors' worth of time that cgroup v2 or v1 grants, None for no limit."""
    try:
        if (root / "cpu.max").is_file():
            limit, period = (root / "cpu.max").read_text().split()
        else:
            limit = (root / "cpu/cpu.cfs_quota_us").read_text().strip()
            period = (root / "cpu/cpu.cfs_period_us").read_text().strip()
        return int(limit) / int(period) if limit not in ("max", "-1") else None
    except (OSError, ValueError):
        return None
