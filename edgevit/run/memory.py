"""Peak memory of this process and of the workers that one step started, not those of steps beside it."""

from __future__ import annotations

import ctypes
import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import psutil

SAMPLE_SECONDS = 0.1
MUCH_BYTES = 2 * 2**30

# Worker -> the thread that started it. A step and the calls of its workers run in one thread.
_OWNERS: dict[int, int] = {}


@dataclass
class Peak:
    """The largest resident memory seen so far, in MB, processes added up (shared pages count in each)."""

    peak_mb: int = 0


def give_back() -> None:
    """Return memory that nothing uses to the system, before another process needs it.

    Exported programs hold each other in cycles, gigabytes of a ViT-B, until Python looks for those; the C library
    keeps what was freed. A small process is left alone: looking takes a third of a second.
    """
    if psutil.Process().memory_info().rss < MUCH_BYTES:
        return
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)


@contextmanager
def owned(pid: int) -> Iterator[None]:
    """Count a worker to the step that runs in this thread while the block runs."""
    _OWNERS[pid] = threading.get_ident()
    try:
        yield
    finally:
        del _OWNERS[pid]


@contextmanager
def peak_memory() -> Iterator[Peak]:
    """Sample resident memory ten times a second while the block runs.

    This process counts as a whole, workers and what they started where this thread or nobody owns them.
    """
    process, stop, owner = psutil.Process(), threading.Event(), threading.get_ident()
    peak = Peak(resident_bytes(process, owner) // 2**20)

    def sample() -> None:
        while not stop.wait(SAMPLE_SECONDS):
            peak.peak_mb = max(peak.peak_mb, resident_bytes(process, owner) // 2**20)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


def resident_bytes(process: psutil.Process, owner: int) -> int:
    """Resident memory of a process and an owner's workers, in bytes; the vanished count as zero.

    A child that still goes by its parent's command line is about to become another program, or shares its pages.
    """
    family = [process]
    with suppress(psutil.Error):
        own = process.cmdline()
        for child in process.children():
            if _OWNERS.get(child.pid, owner) == owner:
                with suppress(psutil.Error):
                    if child.cmdline() != own:
                        family += [child, *child.children(recursive=True)]
    total = 0
    for member in family:
        with suppress(psutil.Error):
            total += member.memory_info().rss
    return total
