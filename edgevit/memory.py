"""Peak memory of this process and everything it started."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil

SAMPLE_SECONDS = 0.1


@dataclass
class Peak:
    """The largest resident memory seen so far, in MB, processes added up (shared pages count in each)."""

    peak_mb: int = 0


@contextmanager
def peak_memory() -> Iterator[Peak]:
    """Sample resident memory of the process tree ten times a second while the block runs."""
    peak, stop = Peak(), threading.Event()
    process = psutil.Process()

    def sample() -> None:
        while True:
            peak.peak_mb = max(peak.peak_mb, resident_bytes(process) // 2**20)
            if stop.wait(SAMPLE_SECONDS):
                return

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


def resident_bytes(process: psutil.Process) -> int:
    """Resident memory of a process and its descendants, in bytes; those that vanish meanwhile count as zero."""
    total = 0
    try:
        family = [process, *process.children(recursive=True)]
    except psutil.Error:
        return 0
    for member in family:
        try:
            total += member.memory_info().rss
        except psutil.Error:
            continue
    return total
