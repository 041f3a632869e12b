"""Several processes of this machine."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any

from edgevit.cluster.tasks import Ended, Task, ended
from edgevit.errors import EdgevitError
from edgevit.run.limits import usable_cores

TRIES = 2  # of a task whose process ended: another may have taken the memory
PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Processes:
    """`count` processes, each with its share of the cores."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.pool = new_pool(count)
        self.running: dict[Future[Ended], Task] = {}
        self.lost: dict[str, int] = {}

    def free(self) -> int:
        """Processes without a task."""
        return self.count - len(self.running)

    def start(self, task: Task) -> None:
        """Give it to a process."""
        self.running[self.pool.submit(ended, task)] = task

    def wait(self) -> list[Ended]:
        """What has ended. If a process was killed all are started anew, with their tasks."""
        while True:
            finished, _ = wait(self.running, return_when=FIRST_COMPLETED)
            if not any(isinstance(each.exception(), BrokenProcessPool) for each in finished):
                return [self.outcome(future) for future in finished]
            tasks = list(self.running.values())
            self.close()
            self.pool, self.running = new_pool(self.count), {}
            given_up = []
            for task in tasks:
                self.lost[task.name] = self.lost.get(task.name, 0) + 1
                if self.lost[task.name] < TRIES:
                    self.start(task)
                else:
                    given_up.append(Ended(task, error=killed(task)))
            if given_up:
                return given_up

    def outcome(self, future: Future[Ended]) -> Ended:
        """What a task gave."""
        del self.running[future]
        return future.result()

    def close(self) -> None:
        """End every process and what it started."""
        processes: dict[int, Any] = dict(self.pool._processes or {})
        self.pool.shutdown(wait=False, cancel_futures=True)
        for process in processes.values():
            process.terminate()


def killed(task: Task) -> EdgevitError:
    """Why a task whose process ended again gave nothing."""
    return EdgevitError(
        f"cannot make {task.name}",
        "its process was ended from outside, perhaps for want of memory",
        "Use fewer --jobs",
    )


@contextmanager
def processes(count: int) -> Iterator[Processes]:
    """`count` processes, ended with the block whatever ends it."""
    workers = Processes(count)
    try:
        yield workers
    finally:
        workers.close()


def new_pool(count: int) -> ProcessPoolExecutor:
    """Processes that share nothing with this one: torch's threads don't survive a fork."""
    threads = max(1, usable_cores() // count)
    return ProcessPoolExecutor(
        count, get_context("spawn"), initializer=begin, initargs=(os.getpid(), threads)
    )


def begin(parent: int, threads: int) -> None:
    """A process of the pool: Ctrl-C is its parent's, and it ends with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    libc = ctypes.CDLL(None)
    if hasattr(libc, "prctl"):
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
    import torch

    torch.set_num_threads(threads)
