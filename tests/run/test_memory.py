"""Which step a worker's memory is counted to."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psutil

from edgevit.run.memory import owned, peak_memory

MANY = 300  # MB


def worker(megabytes: int) -> subprocess.Popen[bytes]:
    code = f"kept = bytearray({megabytes} << 20); print(1, flush=True); input()"
    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def step(megabytes: int, both: threading.Barrier) -> int:
    """The peak of a step with one worker of this size, beside another."""
    with peak_memory() as peak:
        process = worker(megabytes)
        with process, owned(process.pid):
            assert process.stdout is not None
            process.stdout.readline()
            both.wait(30)
            time.sleep(0.5)
            both.wait(30)
            process.communicate(b"\n")
    return peak.peak_mb


def test_a_child_that_shares_this_process_pages_is_not_counted_again() -> None:
    kept = bytearray(MANY << 20)
    with peak_memory() as peak:
        child = os.fork()
        if not child:
            time.sleep(0.5)
            os._exit(0)
        os.waitpid(child, 0)
    assert peak.peak_mb < psutil.Process().memory_info().rss / 2**20 + MANY / 2 and kept


def test_a_worker_counts_to_the_step_that_started_it() -> None:
    both = threading.Barrier(2)
    with ThreadPoolExecutor(2) as pool:
        large, small = pool.map(lambda megabytes: step(megabytes, both), (MANY, 1))
    assert MANY * 0.8 < large - small < MANY * 1.2
