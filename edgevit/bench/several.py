"""Measurements on several boards side by side, and never two on one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from edgevit.bench import measure
from edgevit.bench.choose import choose
from edgevit.bench.connect import locate, reach
from edgevit.bench.prepare import Settings
from edgevit.cluster.tasks import Ended, Task, Workers, ended, run_all
from edgevit.files import user_cache
from edgevit.progress import Progress

Records = list[dict[str, Any]]


@dataclass(frozen=True)
class Asked:
    """What is measured on every board: `what` is a run or an artefact, `binary` a benchmark_model of the user's."""

    what: Path
    target: str | None
    precision: str | None
    settings: Settings
    binary: Path | None = None
    runner: Path | None = None


def measured_on(where: str, asked: Asked, progress: Progress) -> Records:
    """Every artefact measured on one board, alone. Raises EdgevitError."""
    place = locate(where)
    artefacts = choose(asked.what, place, asked.target, asked.precision)
    with alone_on(place.address, progress):
        transport = reach(place)
        try:
            return [
                measure.by_benchmark_model(each, place, transport, asked.binary, asked.settings, progress)
                if asked.binary is not None
                else measure.measure(each, place, transport, asked.settings, progress, asked.runner)
                for each in artefacts
            ]
        finally:
            transport.close()


@contextmanager
def alone_on(address: str, progress: Progress) -> Iterator[None]:
    """Hold a board as long as the block: other measurements from this machine wait for it."""
    name = hashlib.sha256(address.encode()).hexdigest()[:16]
    lock = FileLock(user_cache("boards") / f"{name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        progress.stage(f"wait for {address}: another measurement is on it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def measure_all(
    boards: Sequence[str], asked: Asked, progress: Progress, workers: Workers | None = None
) -> list[Ended]:
    """What each board gave, in the order asked for; by a cluster's `workers` where there is one.

    A cluster's workers that reach a board say so by a Dask resource `board:WHERE`.
    """
    tasks = [
        Task(f"the measurement on {where}", partial(measured_on, where), (asked,), (f"board:{where}",))
        for where in dict.fromkeys(boards)
    ]
    if workers is None and len(tasks) == 1:  # here, so that Ctrl-C reaches it, and a defect of ours its log
        return [Ended(tasks[0], measured_on(boards[0], asked, progress))]
    if workers is None:
        with ThreadPoolExecutor(len(tasks)) as pool:
            return list(pool.map(partial(ended, progress=progress), tasks))
    return run_all(workers, tasks)
