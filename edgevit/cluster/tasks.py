"""What is spread: plain functions of picklable arguments, and who runs them."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from edgevit.errors import EdgevitError
from edgevit.progress import QUIET, Progress


@dataclass(frozen=True)
class Task:
    """`function(*arguments, progress)` under a name; both can be pickled, and so can what it gives.

    It gives the same wherever and however often it runs. `resources` are what a worker must have one of, where any
    worker says that it has; it serves one such task at a time.
    """

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    resources: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ended:
    """A task and what it gave, or why it gave nothing."""

    task: Task
    value: Any = None
    error: EdgevitError | None = None


class Workers(Protocol):
    """Who runs tasks: this process, several, or many machines."""

    def free(self) -> int:
        """How many more tasks may be started now."""

    def start(self, task: Task) -> None:
        """Begin a task."""

    def wait(self) -> list[Ended]:
        """Tasks that have ended since the last call, at least one of those begun."""


class Here:
    """This process, one task at a time, with its progress shown."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.task: Task | None = None

    def free(self) -> int:
        """One, if none is begun."""
        return int(self.task is None)

    def start(self, task: Task) -> None:
        """Keep it for `wait`."""
        self.task = task

    def wait(self) -> list[Ended]:
        """Run it."""
        assert self.task is not None
        task, self.task = self.task, None
        return [ended(task, self.progress)]


def ended(task: Task, progress: Progress = QUIET) -> Ended:
    """Run a task in this process. Whatever goes wrong is an answer: it must not take the others with it."""
    try:
        return Ended(task, task.function(*task.arguments, progress))
    except EdgevitError as error:
        return Ended(task, error=error)
    except Exception as error:  # a full disk, a library's defect, or ours
        traceback.print_exc()
        why = " ".join(f"{type(error).__name__}: {error}".split())
        return Ended(
            task, error=EdgevitError(f"cannot make {task.name}", why, "Report it, with what it printed")
        )


def spread(workers: Workers, following: Callable[[], Task | None], done: Callable[[Ended], None]) -> None:
    """Run tasks until `following` has none left and all have ended; `done` is told of each.

    `following` is asked as late as can be, so that it may choose by what has ended.
    """
    running, more = 0, True
    while True:
        while more and workers.free() > 0:
            task = following()
            if task is None:
                more = False
                break
            workers.start(task)
            running += 1
        if not running:
            return
        for each in workers.wait():
            running -= 1
            done(each)
        more = True  # what has ended may have made room for others


def run_all(
    workers: Workers, tasks: Sequence[Task], done: Callable[[Ended], None] = lambda _: None
) -> list[Ended]:
    """Run tasks of different names; what each gave, in their order. `done` is told of each as it ends."""
    waiting, found = iter(tasks), dict[str, Ended]()

    def told(each: Ended) -> None:
        found[each.task.name] = each
        done(each)

    spread(workers, lambda: next(waiting, None), told)
    return [found[task.name] for task in tasks]


def all_of(workers: Workers, tasks: Sequence[Task], progress: Progress, what: str) -> list[Any]:
    """What tasks of different names gave, in their order; `what` are counted as they end.

    Raises the EdgevitError of the first that fails on every worker that tried it.
    """
    made = 0

    def done(each: Ended) -> None:
        nonlocal made
        if each.error is not None:
            raise each.error
        made += 1
        progress.advance(made, len(tasks), what)

    return [each.value for each in run_all(workers, tasks, done)]
