"""How a board is reached: run a command, follow its output, copy files. Each way of reaching one is a Transport."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgevit.errors import EdgevitError


class TransportError(EdgevitError):
    """A board can't be reached, was lost, or refused a file."""


@dataclass(frozen=True)
class Completed:
    """A command that ended: its exit code (128 + signal if one ended it), output and errors."""

    code: int
    out: str
    err: str


def at_home(transport: Transport, path: str) -> str:
    """A path on a board with ~ as its shell expands it. Raises TransportError if the board can't be reached."""
    if path != "~" and not path.startswith("~/"):
        return path
    home = transport.run(["sh", "-c", 'printf %s "$HOME"'], timeout_s=60.0).out.strip()
    return f"{home}{path[1:]}"


class Transport(Protocol):
    """One board. Every method raises TransportError when the board can't be reached or is lost."""

    @property
    def name(self) -> str:
        """How the board is shown in labels: "host", "ssh://pi@10.0.0.7", "adb:SERIAL"."""

    def run(self, argv: Sequence[str], *, timeout_s: float, stdin: str = "") -> Completed:
        """Run a command; arguments arrive as given, never as a shell line."""

    def stream(self, argv: Sequence[str], *, timeout_s: float, on_line: Callable[[str], None]) -> Completed:
        """Like `run`, passing each line of output on as it comes."""

    def push(self, local: Path, remote: str) -> None:
        """Copy a file to the board."""

    def pull(self, remote: str, local: Path) -> None:
        """Copy a file from the board."""

    def close(self) -> None:
        """End what is held open."""
