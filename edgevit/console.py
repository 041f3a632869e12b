"""Progress as people see it: on a terminal's standard error, in a notebook, or as plain lines."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars


def is_live(console: Console) -> bool:
    """Whether a line can be drawn again in place."""
    return console.is_terminal or console.is_jupyter


class ConsoleProgress:
    """Shows one line for each running piece of work; prints plain lines where there is no terminal."""

    def __init__(self, console: Console, bars: Bars) -> None:
        self.console, self.bars, self.warnings = console, bars, list[str]()
        self._local = threading.local()  # targets converted side by side report from threads of their own

    def stage(self, name: str) -> None:
        self._finish()
        if is_live(self.console):
            self._local.task = self.bars.add_task(escape(name), total=None)
        else:
            self.console.print(escape(name), highlight=False, soft_wrap=True)

    def advance(self, done: int, total: int, note: str = "") -> None:
        task = getattr(self._local, "task", None)
        if task is not None:
            self.bars.update(task, completed=done, total=total or None, note=escape(note))

    def warn(self, text: str) -> None:
        self.warnings.append(text)
        self.console.print(f"[yellow]warning:[/yellow] {escape(text)}", highlight=False, soft_wrap=True)

    def _finish(self) -> None:
        task = getattr(self._local, "task", None)
        if task is not None:
            self.bars.remove_task(task)
            self._local.task = None


@contextmanager
def progress(*, quiet: bool = False) -> Iterator[ConsoleProgress]:
    """Live progress for the duration of the block: on standard error, or in the notebook that it runs in."""
    console = Console(stderr=True, quiet=quiet)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[note]}"),
    )
    with NotedBars(*columns, console=console, transient=True, disable=not is_live(console)) as bars:
        yield ConsoleProgress(console, bars)


class NotedBars(Bars):
    """Progress bars whose `note` field is always there."""

    def add_task(self, description: str, *args: Any, **fields: Any) -> Any:
        return super().add_task(description, *args, **{"note": "", **fields})
