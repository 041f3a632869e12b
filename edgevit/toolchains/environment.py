"""Private environments for the vendors' packages: made from hash-pinned locks, kept, checked, never half-made.

Each environment is a venv in edgevit's cache folder, built under a temporary name and renamed when it works. The
user's own environment is not touched, and nothing of it is seen from inside, but torch by the one toolchain that
needs a whole one: it is looked for after everything of the toolchain's own, which saves gigabytes.
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
from typing import Any

import platformdirs

from edgevit.errors import EdgevitError, ToolchainError
from edgevit.toolchains import releases
from edgevit.toolchains.releases import RELEASES, Release

STATE = "edgevit.json"
WORKERS = Path(__file__).parent.resolve() / "workers"
START = WORKERS / "start.py"
SHARED = WORKERS / "shared"


@dataclass(frozen=True)
class State:
    """A toolchain as `toolchain list` shows it.

    `problem` is None when it is ready; `python` is the version of its interpreter and `interpreter` where it is
    from, None where it isn't installed; `impossible` says why it can't be here.
    """

    name: str
    title: str
    folder: str
    installed: bool
    problem: str | None
    python: str | None = None
    interpreter: str | None = None
    impossible: str | None = None

    @property
    def summary(self) -> str:
        """One line for people."""
        if self.impossible:
            return f"{self.title}: not on this machine: {self.impossible}"
        if not self.installed:
            return f"{self.title}: not installed (edgevit toolchain install {self.name})"
        if self.problem:
            return f"{self.title}: damaged: {self.problem} (edgevit toolchain install {self.name})"
        return f"{self.title}: ready, Python {self.python} of {self.interpreter}, {self.folder}"

    def to_json(self) -> dict[str, object]:
        """Plain values for scripts."""
        return asdict(self)


def list_toolchains() -> list[State]:
    """Every release of every toolchain, and its state."""
    return [state(release.spec) for known in RELEASES.values() for release in known]


def state(spec: str) -> State:
    """One toolchain's state, its files counted but not imported."""
    release, path = releases.find(spec), folder(spec)
    try:
        releases.usable(spec)
    except EdgevitError as error:
        return State(release.spec, release.title, str(path), False, None, impossible=error.why)
    installed = path.is_dir()
    problem = damage(path) if installed else "not installed"
    recorded = record(path)
    return State(
        release.spec,
        release.title,
        str(path),
        installed,
        problem,
        recorded.get("python"),
        recorded.get("interpreter"),
    )


def record(path: Path) -> dict[str, Any]:
    """What was written down of an environment when it was made; empty where that can't be read."""
    try:
        return dict(json.loads((path / STATE).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def python_of(spec: str) -> Path:
    """The interpreter of an installed toolchain. Raises ToolchainError with the command that installs it."""
    name, path = releases.usable(spec).spec, folder(spec)
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
    recorded = record(path)
    if not {"files", "bytes"} <= recorded.keys():
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


def versions(spec: str) -> dict[str, str]:
    """Every package of an installed toolchain with its version. Raises ToolchainError if it isn't installed."""
    python_of(spec)
    return pins(lock_file(spec))


def pins(lock: Path) -> dict[str, str]:
    """Package to version, as a lock pins them."""
    return dict(re.findall(r"^([\w.-]+)==(\S+)", lock.read_text(encoding="utf-8"), re.MULTILINE))


def title(spec: str) -> str:
    """The vendor package and its version."""
    return releases.find(spec).title


def root() -> Path:
    """Where environments are kept; EDGEVIT_TOOLCHAINS overrides."""
    chosen = os.environ.get("EDGEVIT_TOOLCHAINS")
    return Path(chosen) if chosen else Path(platformdirs.user_cache_dir("edgevit")) / "toolchains"


def folder(spec: str) -> Path:
    """An environment's folder: another one for another lock, and for another Python where torch is borrowed."""
    return root() / f"{family(releases.find(spec))}{digest(spec)[:12]}"


def family(release: Release) -> str:
    """What the folders of a release's environments begin with."""
    python = f"py{sys.version_info[0]}{sys.version_info[1]}-" if release.borrows_torch else ""
    return f"{release.toolchain}-{release.version}-{python}"


def lock_file(spec: str) -> Path:
    """The hash-pinned requirements."""
    return releases.find(spec).lock


def digest(spec: str) -> str:
    """Hex sha256 of the lock: part of every compile step's key."""
    return hashlib.sha256(lock_file(spec).read_bytes()).hexdigest()


def interpreter(environment: Path) -> str:
    """The interpreter of an environment."""
    return str(environment / "bin" / "python")


def worker(spec: str) -> Path:
    """The script that runs inside a toolchain's environment."""
    return WORKERS / f"{releases.find(spec).toolchain}.py"


def borrowed(spec: str) -> str | None:
    """The folder of the torch that edgevit itself would import; None for a toolchain that needs no whole torch.

    Raises ToolchainError if there is none.
    """
    if not releases.find(spec).borrows_torch:
        return None
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        raise ToolchainError(
            "cannot use a toolchain", "torch is not installed", "Reinstall edgevit: pip install edgevit"
        )
    return str(Path(found.origin).parents[1])


def torch_version() -> str:
    """The version of the torch that toolchains borrow, read without importing it."""
    return importlib.metadata.version("torch")
