"""Progress on standard error, tables on standard output."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table

WIDTH = 100


class ConsoleProgress:
    """Shows one line for each running piece of work; prints plain lines where there is no terminal."""

    def __init__(self, console: Console, bars: Bars) -> None:
        self.console, self.bars, self.warnings = console, bars, list[str]()
        self._local = threading.local()  # targets converted side by side report from threads of their own

    def stage(self, name: str) -> None:
        self._finish()
        if self.console.is_terminal:
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
    """Live progress on standard error for the duration of the block."""
    console = Console(stderr=True, quiet=quiet)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[note]}"),
    )
    with NotedBars(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        yield ConsoleProgress(console, bars)


class NotedBars(Bars):
    """Progress bars whose `note` field is always there."""

    def add_task(self, description: str, *args: Any, **fields: Any) -> Any:
        return super().add_task(description, *args, **{"note": "", **fields})


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str]
) -> None:
    """A table of text cells at most 100 columns wide, numbers right-aligned, then notes."""
    console = Console(width=min(WIDTH, Console().width) if Console().is_terminal else WIDTH)
    table = Table(
        title=escape(title),
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    console.print(table)
    for note in notes:
        console.print(escape(note), highlight=False)
