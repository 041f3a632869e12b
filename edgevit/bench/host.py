"""This machine as a board: the same runner in a temporary folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgevit.bench.process import converse
from edgevit.bench.transport import Completed, TransportError


@dataclass(frozen=True)
class HostTransport:
    """Runs commands here."""

    name: str = "host"
    pulses: bool = True

    def run(self, argv: Sequence[str], *, timeout_s: float, stdin: str = "") -> Completed:
        """Run a command. Exit code 127 where there is no such program, as a shell says it."""
        return self._run(argv, timeout_s, stdin, lambda line: None, pulses=False)

    def stream(self, argv: Sequence[str], *, timeout_s: float, on_line: Callable[[str], None]) -> Completed:
        """Like `run`, calling `on_line` with each line of output; its input stays open and beats."""
        return self._run(argv, timeout_s, "", on_line, pulses=True)

    def push(self, local: Path, remote: str) -> None:
        """Copy a file. Raises TransportError with the system's reason."""
        copy(local, Path(remote))

    def pull(self, remote: str, local: Path) -> None:
        """Copy a file. Raises TransportError with the system's reason."""
        copy(Path(remote), local)

    def close(self) -> None:
        """Nothing is held open."""

    def _run(
        self,
        argv: Sequence[str],
        timeout_s: float,
        stdin: str,
        on_line: Callable[[str], None],
        *,
        pulses: bool,
    ) -> Completed:
        if shutil.which(argv[0]) is None:
            return Completed(127, "", f"{argv[0]}: not found")
        return converse(f"{argv[0]} on this machine", argv, timeout_s, stdin, on_line, pulses=pulses)


def copy(source: Path, target: Path) -> None:
    """Copy a file's content. Raises TransportError."""
    try:
        shutil.copyfile(source, target)
    except OSError as error:
        raise TransportError(
            f"cannot copy {source.name} to {target}",
            (error.strerror or str(error)).lower(),
            "Make room, or give another work folder in boards.toml",
        ) from None
