"""Private environments for the vendors' packages: made from hash-pinned locks, kept, checked, never half-made.

Each environment is a venv in edgevit's cache folder, built under a temporary name and renamed when it works. The
user's own environment is not touched: torch is borrowed from it at run time (its folder is appended to the
worker's import path, so the pinned packages always win), which saves gigabytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import platformdirs
from filelock import FileLock

from edgevit.errors import InputError, ToolchainError
from edgevit.files import replace_folder, write_atomically
from edgevit.progress import Progress

PYTHONS = ((3, 11), (3, 12))
STATE = "edgevit.json"


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
        return f"{self.title}: {self.problem or 'ready'}, {self.folder}"

    def to_json(self) -> dict[str, object]:
        """Plain values for scripts."""
        return asdict(self)


def install(name: str, progress: Progress) -> Path:
    """Make a toolchain's environment unless a healthy one is there; return its folder.

    Safe against a second installation at the same time and against being killed. Raises ToolchainError with the
    installer's own last error.
    """
    toolchain, final = known(name), folder(name)
    final.parent.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(name, progress):
        if damage(final) is None:
            return final
        for leftover in final.parent.glob(f".{name}-*.staging"):
            shutil.rmtree(leftover, ignore_errors=True)
        refuse_full_disk(name, toolchain.needed_mb, final.parent)
        staging = final.with_name(f".{name}-{secrets.token_hex(4)}.staging")
        try:
            build(name, staging, progress)
            replace_folder(staging, final)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        remove_older(name, final)
    return final


def build(name: str, staging: Path, progress: Progress) -> None:
    """Create a venv, install the lock into it, prove that it works, write its state last."""
    progress.stage(f"install {TOOLCHAINS[name].title}: once; it takes a few minutes and is then reused")
    venv.EnvBuilder(with_pip=True, symlinks=True).create(staging)
    lock = lock_file(name)
    total = lock.read_text(encoding="utf-8").count("==")
    log = log_file(name)
    command = [
        *(interpreter(staging), "-I", "-m", "pip", "install", "--require-hashes", "--no-deps", "--no-input"),
        *("--disable-pip-version-check", "--progress-bar", "off", "-r", str(lock)),
    ]
    with log.open("w", encoding="utf-8") as sink:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert process.stdout is not None
        done = 0
        with process:
            try:
                for line in process.stdout:
                    sink.write(line)
                    if line.startswith("Collecting "):
                        done += 1
                        progress.advance(done, total, line.split()[1])
            except BaseException:
                process.kill()
                raise
    if process.returncode != 0:
        raise ToolchainError(f"cannot install the {name} toolchain", last_error(log), f"See {log}")
    progress.advance(total, total, "checking")
    prove(name, staging)
    size = {"files": 0, "bytes": 0} | dict(zip(("files", "bytes"), contents(staging), strict=True))
    write_atomically(staging / STATE, json.dumps({"name": name, "lock": digest(name), **size}))


def prove(name: str, environment: Path) -> None:
    """Import the toolchain in its environment. Raises ToolchainError if that fails."""
    script = f"import sys; sys.path.append({str(borrowed())!r}); {TOOLCHAINS[name].check}"
    process = subprocess.run(
        [interpreter(environment), "-I", "-c", script], capture_output=True, text=True, check=False
    )
    if process.returncode != 0:
        lines = process.stderr.strip().splitlines() or [f"exit code {process.returncode}"]
        raise ToolchainError(
            f"cannot install the {name} toolchain",
            f"it was installed but does not work here ({lines[-1][:200]})",
            "Report this with your Python and torch versions",
        )


def remove(name: str) -> None:
    """Delete a toolchain's environments. Raises InputError if there is none."""
    known(name)
    found = [path for path in root().glob(f"{name}-*") if path.is_dir()] if root().is_dir() else []
    if not found:
        raise InputError(f"cannot remove the {name} toolchain", "it is not installed", "Nothing to do")
    for path in found:
        shutil.rmtree(path)


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
    return dict(re.findall(r"^([\w.-]+)==(\S+)", lock_file(name).read_text(encoding="utf-8"), re.MULTILINE))


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


def borrowed() -> Path:
    """The folder that torch is borrowed from."""
    return Path(sysconfig.get_path("purelib"))


def log_file(name: str) -> Path:
    """Where an installation's output goes."""
    path = Path(platformdirs.user_log_dir("edgevit")) / f"install-{name}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def last_error(log: Path) -> str:
    """The installer's last line that says error, else its last line."""
    lines = [
        line.strip()
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines()
        if line.strip()
    ]
    wrong = [line for line in lines if line.startswith("ERROR")]
    return (wrong or lines or ["no output"])[-1].removeprefix("ERROR: ").rstrip(".")[:300]


def refuse_full_disk(name: str, needed_mb: int, where: Path) -> None:
    """Raise ToolchainError where an installation can't fit."""
    free = shutil.disk_usage(where).free // 2**20
    if free < needed_mb:
        raise ToolchainError(
            f"cannot install the {name} toolchain",
            f"it needs {needed_mb} MB in {where} and {free} MB are free",
            "Make room, or set EDGEVIT_TOOLCHAINS to a folder on another disk",
        )


def remove_older(name: str, keep: Path) -> None:
    """Delete this Python's environments of an older lock."""
    tag = keep.name.rsplit("-", 1)[0]
    for path in keep.parent.glob(f"{tag}-*"):
        if path != keep:
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def one_at_a_time(name: str, progress: Progress) -> Iterator[None]:
    """Wait for another installation of the same toolchain to finish."""
    lock = FileLock(root() / f".{name}.lock")
    if lock.lock_file and not try_now(lock):
        progress.stage(f"another edgevit is installing {name}; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def try_now(lock: FileLock) -> bool:
    """Whether the lock was free."""
    try:
        lock.acquire(timeout=0)
    except TimeoutError:
        return False
    return True
