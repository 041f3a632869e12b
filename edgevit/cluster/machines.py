"""Many machines, or many processes of one, through dask.distributed.

A worker is looked at before it gets work. What fails on one is tried once on another: if it succeeds there, the
first gets no more. A worker that is lost loses its tasks to the others.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from edgevit.cluster.fitness import Needs, needs_of, why_unfit
from edgevit.cluster.tasks import Ended, Task, ended
from edgevit.errors import EdgevitError, InputError
from edgevit.progress import Progress
from edgevit.run.limits import usable_cores
from edgevit.targets.profiles import Board

CONNECT_S = 15
POLL_S = 2.0
PATIENCE_S = 120.0  # without any worker
# A worker with several threads does one task at a time: exporters patch what all share.
TURN = threading.Lock()


@dataclass
class Begun:
    """A task under way: the workers that may take it, and what went wrong on others."""

    task: Task
    allowed: list[str]
    failed_on: dict[str, str]


class Machines:
    """The workers of a Dask cluster."""

    def __init__(self, client: Any, needs: Needs, progress: Progress) -> None:
        self.client, self.needs, self.progress = client, needs, progress
        self.known: dict[str, str | None] = {}  # address: why it gets no work
        self.running: dict[Any, Begun] = {}
        if not self.fit():
            told = (
                "; ".join(f"{each}: {why}" for each, why in self.known.items())
                or "the cluster has no workers"
            )
            raise InputError("no worker can take this work", told, "Mend one, or leave the cluster out")

    def free(self) -> int:
        """Workers without a task."""
        return len(self.fit()) - len(self.running)

    def fit(self) -> list[str]:
        """Addresses of workers that can take work; new ones are looked at first."""
        there = set(self.client.scheduler_info(n_workers=-1)["workers"])
        for address in sorted(there - self.known.keys()):
            self.known[address] = why = self.look(address)
            if why is not None:
                self.progress.warn(f"worker {address} gets no work: {why}")
        return [each for each in sorted(there) if self.known[each] is None]

    def look(self, address: str) -> str | None:
        """Why a worker can't take the work."""
        found = self.client.run(why_unfit, self.needs, workers=[address], on_error="return")
        answer = found.get(address, "it does not answer")
        return answer if answer is None or isinstance(answer, str) else f"{type(answer).__name__}: {answer}"

    def start(self, task: Task) -> None:
        """Give it to the cluster."""
        self.submit(task, {})

    def able(self, task: Task) -> tuple[list[str], list[str]]:
        """Workers that can take a task: fit, and with what it needs of them; and what of that is told at all."""
        workers, fit = self.client.scheduler_info(n_workers=-1)["workers"], self.fit()
        had = {each: set(workers[each]["resources"]) for each in fit if each in workers}
        needed = [name for name in task.resources if any(name in own for own in had.values())]
        return [each for each, own in had.items() if own.issuperset(needed)], needed

    def submit(self, task: Task, failed_on: dict[str, str]) -> None:
        """Give a task to one of the workers that can take it, to one that it has not failed on if there is any."""
        able, needed = self.able(task)
        allowed = [each for each in able if each not in failed_on] or able
        hosts = [urlsplit(each).hostname for each in self.fit()]
        neighbours = max((hosts.count(each) for each in hosts), default=1)
        future = self.client.submit(
            on_worker,
            task,
            neighbours,
            workers=allowed,
            resources=dict.fromkeys(needed, 1),
            pure=False,
            retries=0,
        )
        self.running[future] = Begun(task, allowed, failed_on)

    def wait(self) -> list[Ended]:
        """What has ended."""
        alone_since = None
        while True:
            done = [each for each in self.running if each.done()]
            answers = [self.outcome(each) for each in done]
            if found := [each for each in answers if each is not None]:
                return found
            if self.rescued():
                alone_since = None
            else:
                alone_since = alone_since or time.monotonic()
                if time.monotonic() - alone_since > PATIENCE_S:
                    raise EdgevitError(
                        "every worker is gone",
                        "the cluster has none left",
                        "Start it again: what is made is kept",
                    )
            if not done:
                wait_for(self.running)

    def rescued(self) -> bool:
        """Start tasks again whose workers are all gone; False where there is no worker."""
        fit = self.fit()
        for future, begun in list(self.running.items()):
            if fit and not future.done() and not set(begun.allowed) & set(fit):
                del self.running[future]
                future.cancel()
                self.progress.warn(f"the worker of {begun.task.name} is gone: begun again on another")
                self.submit(begun.task, begun.failed_on)
        return bool(fit)

    def outcome(self, future: Any) -> Ended | None:
        """What a task gave; None where it is tried on another worker."""
        begun = self.running.pop(future)
        address, found = answer_of(future, begun.task)
        failed_on = begun.failed_on
        if found.error is None:
            for each, why in failed_on.items():
                self.known[each] = f"{begun.task.name} failed on it and not on {address}: {why}"
                self.progress.warn(f"worker {each} gets no more work: {self.known[each]}")
            return found
        able, _ = self.able(begun.task)
        if address is None or failed_on or not set(able) - {address}:
            return found
        self.submit(begun.task, {address: str(found.error)})
        return None


def answer_of(future: Any, task: Task) -> tuple[str | None, Ended]:
    """Where a task ran and what it gave."""
    try:
        address, found = future.result()
    except Exception as error:  # of Dask itself: what a task raises comes as a value
        why = f"{type(error).__name__}: {error}"
        return None, Ended(task, error=EdgevitError(f"cannot make {task.name}", why, "See the workers' logs"))
    return address, found


def on_worker(task: Task, neighbours: int) -> tuple[str, Ended]:
    """Run a task on a worker; where that was, and what it gave. `neighbours` workers share its machine's cores."""
    import torch
    from distributed import get_worker

    address = get_worker().address
    with TURN:
        # Dask leaves a worker one thread; with as many as elsewhere, sums come out the same to the last bit.
        torch.set_num_threads(max(1, usable_cores() // neighbours))
        return address, ended(task)


def wait_for(futures: Any) -> None:
    """Until one has ended, or for a moment."""
    from distributed import TimeoutError, wait

    with suppress(TimeoutError):
        wait(list(futures), timeout=POLL_S, return_when="FIRST_COMPLETED")  # type: ignore[no-untyped-call]


@contextmanager
def machines(
    scheduler: str | None, local: int | None, needs: Needs, progress: Progress
) -> Iterator[Machines]:
    """The workers of a scheduler, or so many of this machine. Raises InputError where there are none."""
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        fix = 'Run "pip install distributed", or pip install edgevit[cluster]'
        raise InputError("cannot spread work", "dask.distributed is not installed", fix) from None
    connected: Any = Client
    if scheduler is None:
        started: Any = LocalCluster
        with (
            started(n_workers=local, threads_per_worker=1, dashboard_address=None) as cluster,
            connected(cluster) as client,
        ):
            yield Machines(client, needs, progress)
        return
    try:
        client = connected(scheduler, timeout=CONNECT_S)
    except (OSError, ValueError, TimeoutError) as error:
        why = " ".join(str(error).split())[:200]
        fix = "Start it with: dask scheduler"
        raise InputError(f"cannot reach the scheduler {scheduler}", why, fix) from None
    with client:
        yield Machines(client, needs, progress)


@contextmanager
def machines_if_asked(
    boards: Iterable[Board],
    files: Iterable[Path],
    folder: Path,
    scheduler: str | None,
    local: int | None,
    progress: Progress,
) -> Iterator[Machines | None]:
    """The cluster that was asked for, else None; the work is on `boards`, reads `files`, writes into `folder`."""
    if scheduler is None and local is None:
        yield None
        return
    with (
        needs_of(boards, files, folder) as needs,
        machines(scheduler, local, needs, progress) as workers,
    ):
        yield workers
