"""Peak memory of this process and everything it started."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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
    process, stop = psutil.Process(), threading.Event()
    peak = Peak(resident_bytes(process) // 2**20)

    def sample() -> None:
        while not stop.wait(SAMPLE_SECONDS):
            peak.peak_mb = max(peak.peak_mb, resident_bytes(process) // 2**20)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


def resident_bytes(process: psutil.Process) -> int:
    """Resident memory of a process and its descendants, in bytes; the vanished count as zero."""
    family = [process]
    with suppress(psutil.Error):
        family += process.children(recursive=True)
    total = 0
    for member in family:
        with suppress(psutil.Error):
            total += member.memory_info().rss
    return total
