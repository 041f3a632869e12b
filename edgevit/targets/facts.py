"""What a board at hand is and has, and what it lacks, as data: found by `bench`, judged by each backend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Facts:
    """What was found; None and empty where it isn't there or could not be read."""

    where: str
    model: str
    compatible: tuple[str, ...]
    machine: str
    bits: int | None
    cpu: str
    cores: int | None
    memory_mb: int | None
    kernel: str
    os: str
    android: str | None
    npu_driver: str | None
    npu_node: str | None
    npu_library: str | None
    npu_library_version: str | None
    python: str | None
    modules: Mapping[str, str] = field(default_factory=dict)
    may_pin_clocks: bool = False
    tmp_free_mb: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values for scripts."""
        return asdict(self)

    def machine_json(self) -> dict[str, Any]:
        """The part of a measurement that says what it was measured on."""
        names = ("model", "cpu", "cores", "memory_mb", "kernel", "python")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Missing:
    """Something the board lacks: what, why it matters, how to get it."""

    what: str
    why: str
    fix: str

    def __str__(self) -> str:
        return f"{self.what}: {self.why}. {self.fix}"

    def to_json(self) -> dict[str, str]:
        """Plain values for scripts."""
        return asdict(self)


VENV = "python3 -m venv ~/edgevit && "
VENV_PYTHON = "~/edgevit/bin/python"
VENV_ADVICE = f', then python = "{VENV_PYTHON}" for it in boards.toml'


def pip(*packages: str) -> str:
    """The command that installs packages where edgevit's runner finds them.

    Into an environment of their own: Debian and Ubuntu refuse it outside one.
    """
    words = " ".join(f"'{name}'" if "<" in name else name for name in packages)
    return f"On the board: {VENV}{VENV_PYTHON} -m pip install {words}{VENV_ADVICE}"


def with_python(fix: str, python: str) -> str:
    """What `pip` says, for a board whose Python is chosen already; other advice as it is."""
    return fix.replace(f"{VENV}{VENV_PYTHON} -m pip", f"{python} -m pip").replace(VENV_ADVICE, "")


def version(text: str) -> tuple[int, ...]:
    """A dotted version as numbers, up to the first part that isn't one."""
    numbers = []
    for part in text.split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)
