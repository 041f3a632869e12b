"""Private environments for the vendors' packages: made from hash-pinned locks, kept, checked, never half-made.

Each environment is a venv in edgevit's cache folder, built under a temporary name and renamed when it works. The
user's own environment is not touched: torch, and only torch, is borrowed from it at run time (the workers look
for it there after everything of their own), which saves gigabytes.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import platformdirs

from edgevit.errors import InputError, ToolchainError

PYTHONS = ((3, 11), (3, 12))
STATE = "edgevit.json"
WORKERS = Path(__file__).parent.resolve() / "workers"
START = WORKERS / "start.py"
JOB = WORKERS / "shared" / "job.py"


@dataclass(frozen=True)
class Toolchain:
    """What a toolchain is called, what proves that it works, how much disk its installation needs."""

    title: str
    check: str
    needed_mb: int


TOOLCHAINS = {
    "rknn": Toolchain("rknn-toolkit2 2.5.0", "from rknn.api import RKNN", 1500),
    "litert": Toolchain(
        "litert-torch 0.10.0",
        "import litert_torch, ai_edge_quantizer; from ai_edge_litert.interpreter import Interpreter",
        2500,
    ),
}


@dataclass(frozen=True)
class State:
    """A toolchain as `toolchain list` shows it; `problem` is None when it is ready."""

    name: str
    title: str
    folder: str
    installed: bool
    problem: str | None

    @property
    def summary(self) -> str:
        """One line for people."""
        if not self.installed:
            return f"{self.title}: not installed (edgevit toolchain install {self.name})"
        if self.problem:
            return f"{self.title}: damaged: {self.problem} (edgevit toolchain install {self.name})"
        return f"{self.title}: ready, {self.folder}"

    def to_json(self) -> dict[str, object]:
        """Plain values for scripts."""
        return asdict(self)


def list_toolchains() -> list[State]:
    """Every toolchain and its state."""
    return [state(name) for name in TOOLCHAINS]


def state(name: str) -> State:
    """One toolchain's state, its files counted but not imported."""
    path = folder(name)
    installed = path.is_dir()
    problem = damage(path) if installed else "not installed"
    return State(name, known(name).title, str(path), installed, problem)


def python_of(name: str) -> Path:
    """The interpreter of an installed toolchain. Raises ToolchainError with the command that installs it."""
    known(name)
    path = folder(name)
    if not (path / STATE).is_file():
        raise ToolchainError(
            f"cannot use the {name} toolchain",
            "it is not installed",
            f'Run "edgevit toolchain install {name}"',
        )
    if not Path(interpreter(path)).exists():
        raise damaged(name, "its interpreter is gone")
    return Path(interpreter(path))


def damaged(name: str, why: str) -> ToolchainError:
    """The one line for an environment that was changed after it was made."""
    return ToolchainError(
        f"cannot use the {name} toolchain",
        f"it is damaged ({why})",
        f'Run "edgevit toolchain install {name}"',
    )


def damage(path: Path) -> str | None:
    """Why an environment isn't as it was made, or None. Bytecode doesn't count."""
    try:
        recorded = json.loads((path / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "its installation did not finish"
    if not Path(interpreter(path)).exists():
        return "its interpreter is gone"
    files, size = contents(path)
    if (files, size) != (recorded["files"], recorded["bytes"]):
        return f"{files} files of {size} bytes instead of {recorded['files']} of {recorded['bytes']}"
    return None


def contents(path: Path) -> tuple[int, int]:
    """Number and total bytes of an environment's files, without bytecode and its own state."""
    sizes = [
        os.lstat(os.path.join(parent, file)).st_size  # noqa: PTH118 - tens of thousands of files
        for parent, _, files in os.walk(path)
        for file in files
        if not file.endswith(".pyc") and file != STATE
    ]
    return len(sizes), sum(sizes)


def versions(name: str) -> dict[str, str]:
    """Every package of an installed toolchain with its version. Raises ToolchainError if it isn't installed."""
    python_of(name)
    return pins(lock_file(name))


def pins(lock: Path) -> dict[str, str]:
    """Package to version, as a lock pins them."""
    return dict(re.findall(r"^([\w.-]+)==(\S+)", lock.read_text(encoding="utf-8"), re.MULTILINE))


def title(name: str) -> str:
    """The vendor package and its version."""
    return known(name).title


def known(name: str) -> Toolchain:
    """The toolchain of that name. Raises InputError for another name or an unsupported Python."""
    if name not in TOOLCHAINS:
        raise InputError(
            f"unknown toolchain {name!r}",
            "there is none of that name",
            f"Choose from {', '.join(TOOLCHAINS)}",
        )
    if sys.version_info[:2] not in PYTHONS:
        raise InputError(
            f"cannot use the {name} toolchain",
            f"it has no lock for Python {sys.version_info.major}.{sys.version_info.minor}",
            "Run edgevit with Python 3.11 or 3.12",
        )
    return TOOLCHAINS[name]


def root() -> Path:
    """Where environments are kept; EDGEVIT_TOOLCHAINS overrides."""
    chosen = os.environ.get("EDGEVIT_TOOLCHAINS")
    return Path(chosen) if chosen else Path(platformdirs.user_cache_dir("edgevit")) / "toolchains"


def folder(name: str) -> Path:
    """An environment's folder: a changed lock is another environment."""
    return root() / f"{name}-py{sys.version_info.major}{sys.version_info.minor}-{digest(name)[:12]}"


def lock_file(name: str) -> Path:
    """The hash-pinned requirements for this Python."""
    return Path(__file__).parent / "locks" / f"{name}-py{sys.version_info.major}{sys.version_info.minor}.txt"


def digest(name: str) -> str:
    """Hex sha256 of the lock: part of every compile step's key."""
    return hashlib.sha256(lock_file(name).read_bytes()).hexdigest()


def interpreter(environment: Path) -> str:
    """The interpreter of an environment."""
    return str(environment / "bin" / "python")


def worker(name: str) -> Path:
    """The script that runs inside a toolchain's environment."""
    return WORKERS / f"{name}.py"


def borrowed() -> Path:
    """The folder that holds the torch edgevit itself would import. Raises ToolchainError if there is none."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        raise ToolchainError(
            "cannot use a toolchain", "torch is not installed", "Reinstall edgevit: pip install edgevit"
        )
    return Path(found.origin).parents[1]


def torch_version() -> str:
    """The version of the torch that toolchains borrow, read without importing it."""
    return importlib.metadata.version("torch")
