"""How many processors this process may use, and what they can do."""

from __future__ import annotations

import os
import platform
from functools import cache
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


@cache
def _cpuinfo() -> dict[str, str]:
    """The first processor's entries of ``/proc/cpuinfo``; empty on other systems than Linux."""
    try:
        first, _, _ = Path("/proc/cpuinfo").read_text().partition("\n\n")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def processor_flags() -> frozenset[str]:
    """The instruction sets of this processor by Linux's names, such as ``avx512_vnni``; empty where unknown."""
    info = _cpuinfo()
    return frozenset((info.get("flags") or info.get("Features") or "").split())


def processor_name() -> str:
    """As the processor calls itself."""
    return _cpuinfo().get("model name") or platform.processor() or platform.machine()
