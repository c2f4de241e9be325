"""The processors that this process may use, and their instruction sets."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from functools import cache
from pathlib import Path


def available_cpus() -> int:
    """Processors by affinity and cgroup quota, at least 1; ``os.cpu_count()`` respects neither."""
    cpus = allowed_cpus()
    quota = _cgroup_quota()
    return max(min(cpus, cpus if quota is None else round(quota)), 1)


def allowed_cpus() -> int:
    """The number of processors that this process may run on, however much of their time it gets."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def waiting_s() -> float:
    """Seconds that this process's threads were ready to run while others had the processors, in all.

    Linux counts them (``/proc/PID/task/TID/schedstat``, kernel documentation ``scheduler/sched-stats``); elsewhere 0.
    """
    waited_ns = 0
    for file in Path("/proc/self/task").glob("*/schedstat"):
        with suppress(OSError):  # the thread has ended
            waited_ns += int(file.read_text().split()[1])
    return waited_ns / 1e9


def _cgroup_quota(root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> float | None:
    """Processors' worth of time that cgroup v2 or v1 grants this process or a group above its own, None for no limit."""
    own = {"": "", "cpu": ""}  # by controller; v2 has one group for all, which has no name
    try:
        for line in membership.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            own |= {name: path.lstrip("/") for name in controllers.split(",") if name in own}
    except (OSError, ValueError):
        pass
    quotas = []
    for top, path in ((root, own[""]), (root / "cpu", own["cpu"])):
        group = top / path
        groups = [folder for folder in (group, *group.parents) if folder.is_relative_to(top)]
        quotas += [quota for quota in map(_read_quota, groups) if quota is not None]
    return min(quotas, default=None)


def _read_quota(group: Path) -> float | None:
    try:
        if (group / "cpu.max").is_file():
            limit, period = (group / "cpu.max").read_text().split()
        else:
            limit = (group / "cpu.cfs_quota_us").read_text().strip()
            period = (group / "cpu.cfs_period_us").read_text().strip()
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
    """The processor's own name, such as ``AMD EPYC 9B14``."""
    return _cpuinfo().get("model name") or platform.processor() or platform.machine()
