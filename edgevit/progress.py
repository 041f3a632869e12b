"""How long work reports what it is doing, without knowing who listens."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives stage names, counts and warnings from a running stage."""

    def stage(self, name: str) -> None:
        """A new piece of work has begun."""

    def advance(self, done: int, total: int, note: str = "") -> None:
        """`done` of `total` units are finished; `total` 0 means unknown."""

    def warn(self, text: str) -> None:
        """Something the user should read, one line."""


class Quiet:
    """Shows nothing and keeps the warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def stage(self, name: str) -> None:
        pass

    def advance(self, done: int, total: int, note: str = "") -> None:
        pass

    def warn(self, text: str) -> None:
        self.warnings.append(text)


QUIET: Progress = Quiet()
