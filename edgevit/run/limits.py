"""What this process may use of the machine: a container's limits and the scheduler's, not the machine's own."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from pathlib import Path

import psutil

CGROUP = Path("/sys/fs/cgroup")
UNLIMITED = 2**60  # version 1 writes a number close to 2**63 for no limit


def usable_cores(cgroup: Path = CGROUP) -> int:
    """Processor cores that this process may keep busy, at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):
        quota, period = (cgroup / "cpu.max").read_text(encoding="utf-8").split()
        return max(1, min(cores, math.floor(int(quota) / int(period))))
    with suppress(OSError, ValueError):
        quota = (cgroup / "cpu/cpu.cfs_quota_us").read_text(encoding="utf-8")
        period = (cgroup / "cpu/cpu.cfs_period_us").read_text(encoding="utf-8")
        if int(quota) > 0:
            return max(1, min(cores, math.floor(int(quota) / int(period))))
    return max(1, cores)


def container_room(cgroup: Path = CGROUP) -> int | None:
    """Bytes that the container's memory limit leaves, None without a limit."""
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        with suppress(OSError, ValueError):
            most = int((cgroup / limit).read_text(encoding="utf-8"))
            if most < UNLIMITED:
                return max(0, most - int((cgroup / used).read_text(encoding="utf-8")))
    return None


def usable_memory(cgroup: Path = CGROUP) -> int:
    """Bytes of memory that are free for this process."""
    free: int = psutil.virtual_memory().available
    room = container_room(cgroup)
    return free if room is None else min(free, room)
