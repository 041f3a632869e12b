"""Making and removing toolchain environments: built aside, proved, then renamed; never half-made, never twice."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import platformdirs
from filelock import FileLock

from edgevit.errors import InputError, ToolchainError
from edgevit.files import replace_folder, write_atomically
from edgevit.progress import QUIET, Progress
from edgevit.toolchains import environment as env
from edgevit.toolchains import interpreters, releases
from edgevit.toolchains.interpreters import Interpreter
from edgevit.toolchains.releases import Release

# Users' pip settings that would put packages elsewhere or change which; indexes, proxies, certificates stay.
MISLEADING_PIP = {
    *("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_USER", "PIP_CONSTRAINT", "PIP_REQUIREMENT"),
    *("PIP_DRY_RUN", "PIP_EDITABLE", "PIP_PYTHON", "PIP_NO_BINARY", "PIP_REPORT", "PIP_QUIET"),
}


def install(spec: str, progress: Progress, *, wheels: Path | None = None) -> Path:
    """Make a toolchain's environment unless a healthy one is there; return its folder.

    `wheels` is a folder of packages to take instead of the package index. Safe against a second installation at
    the same time and against being killed. Raises ToolchainError with the installer's own last error.
    """
    release = releases.usable(spec)
    name, final = release.spec, env.folder(spec)
    with refusing_bad_disk(name), one_at_a_time(name, progress):
        if env.damage(final) is None:
            prove_again(release, final, progress)
            return final
        remove_leftovers(name)
        refuse_full_disk(name, release.needed_mb, final.parent)
        python = interpreter_for(release, progress)
        staging = final.with_name(f".{name}-{secrets.token_hex(4)}.staging")
        try:
            build(release, python, staging, wheels, progress)
            replace_folder(staging, final)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        remove_older(release, final)
    return final


def interpreter_for(release: Release, progress: Progress) -> Interpreter:
    """The Python to install a release for: edgevit's own where its torch is borrowed."""
    if not release.borrows_torch:
        return interpreters.find(release.toolchain, release.pythons, progress)
    own = interpreters.ask(interpreters.own())
    if own is None:  # Debian ships venv and ensurepip apart from Python
        raise ToolchainError(
            f"cannot install the {release.spec} toolchain",
            "this Python can't create environments with pip",
            "On Debian and Ubuntu: sudo apt-get install python3-venv",
        )
    return own


def build(
    release: Release, python: Interpreter, staging: Path, wheels: Path | None, progress: Progress
) -> None:
    """Create a venv, install the lock into it, prove that it works, write its state last."""
    progress.stage(
        f"install {release.title} for Python {python.version}: once; it takes a few minutes and is then reused"
    )
    make_venv(release, python, staging)
    lock, log = env.lock_file(release.spec), log_file(release.spec)
    source = ["--no-index", "--find-links", str(wheels.resolve())] if wheels else []
    command = ["install", "--no-user", *source, *LOCKED, "-r", str(lock)]
    watch(release, pip(staging, command), len(env.pins(lock)), log, progress)
    prove(release, staging)
    write_state(release, python, staging)


def download(spec: str, out: Path, progress: Progress) -> Interpreter:
    """Collect a toolchain's packages in a folder, for `install` on a machine like this one without a network.

    Returns the Python that they are for. Raises ToolchainError with the installer's own last error.
    """
    release = releases.usable(spec)
    lock, log = env.lock_file(spec), log_file(spec)
    out.mkdir(parents=True, exist_ok=True)
    python = interpreter_for(release, progress)
    progress.stage(f"download {release.title} for Python {python.version}")
    with tempfile.TemporaryDirectory(prefix="edgevit-") as folder:
        make_venv(release, python, Path(folder))
        command = ["download", "--dest", str(out.resolve()), *LOCKED, "-r", str(lock)]
        watch(release, pip(Path(folder), command), len(env.pins(lock)), log, progress)
    return python


LOCKED = (
    *("--require-hashes", "--no-deps", "--no-input", "--disable-pip-version-check", "--progress-bar", "off"),
)


def watch(
    release: Release,
    process: AbstractContextManager[subprocess.Popen[str]],
    total: int,
    log: Path,
    progress: Progress,
) -> None:
    """Show pip's work, package by package. Raises ToolchainError where it fails."""
    begun = 0
    with log.open("w", encoding="utf-8") as sink, process as running:
        for line in running.stdout or ():
            sink.write(line)
            if match := re.match(r"(?:Collecting|Processing) (?:\S*/)?([\w.-]+)", line):
                begun += 1
                progress.advance(begun, max(begun, total), match[1])
    if running.returncode != 0:
        raise ToolchainError(f"cannot install the {release.spec} toolchain", last_error(log), f"See {log}")
    progress.advance(total, total, "checking")


def make_venv(release: Release, python: Interpreter, staging: Path) -> None:
    """An empty environment with pip. Raises ToolchainError where that Python's own venv can't make one."""
    done = subprocess.run(
        [python.path, "-I", "-m", "venv", staging], capture_output=True, text=True, errors="replace"
    )
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
        raise ToolchainError(
            f"cannot install the {release.spec} toolchain",
            f"{python.path} can't create an environment ({lines[-1][:200]})",
            f"Name another Python in {interpreters.variable(release.toolchain)}",
        )


@contextmanager
def pip(environment: Path, arguments: list[str]) -> Iterator[subprocess.Popen[str]]:
    """pip at work in an environment; it ends with the block and with edgevit, however those end."""
    command = [
        *(env.interpreter(environment), "-I", str(env.START), str(os.getpid()), "-m", "pip", *arguments)
    ]
    settings = {key: value for key, value in os.environ.items() if key not in MISLEADING_PIP}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=settings
    )
    with process:
        try:
            yield process
        except BaseException:
            process.kill()
            raise


def prove(release: Release, environment: Path) -> None:
    """Import the toolchain in its environment. Raises ToolchainError if that fails."""
    borrowed = env.borrowed(release.spec)
    find_torch = f"sys.path.append({str(env.SHARED)!r}); import job; job.torch_from({borrowed!r})"
    script = f"import sys; {find_torch}; {release.check}"
    process = subprocess.run(
        [env.interpreter(environment), "-I", "-c", script], capture_output=True, text=True, errors="replace"
    )
    if process.returncode != 0:
        lines = process.stderr.strip().splitlines() or [f"exit code {process.returncode}"]
        torch = f" with torch {env.torch_version()}" if borrowed else ""
        raise ToolchainError(
            f"cannot use the {release.spec} toolchain",
            f"it is installed but does not work{torch} here ({lines[-1][:200]})",
            'Report this with what "edgevit doctor" prints',
        )


def write_state(release: Release, python: Interpreter, environment: Path) -> None:
    """Record what a whole environment looks like, on which Python, and which torch it was proved with."""
    files, size = env.contents(environment)
    state = {
        "name": release.spec,
        "lock": env.digest(release.spec),
        "python": python.version,
        "interpreter": str(python.path),
        "files": files,
        "bytes": size,
        "torch": env.torch_version() if release.borrows_torch else None,
    }
    write_atomically(environment / env.STATE, json.dumps(state))


def prove_again(release: Release, environment: Path, progress: Progress) -> None:
    """Another torch to borrow can break a toolchain whose own files are whole."""
    if not release.borrows_torch or env.record(environment).get("torch") == env.torch_version():
        return
    progress.stage(f"check {release.title} with torch {env.torch_version()}")
    prove(release, environment)
    python = env.record(environment)
    write_state(release, Interpreter(Path(python["interpreter"]), python["python"]), environment)


def remove(spec: str) -> None:
    """Delete a toolchain's environments: of one release where the spec names it, else of all.

    Raises InputError if there is none.
    """
    release, name = releases.find(spec), spec
    beginning = env.family(release) if "@" in spec else f"{release.toolchain}-"
    found = [path for path in env.root().glob(f"{beginning}*") if path.is_dir()]
    if not found:
        raise InputError(f"cannot remove the {name} toolchain", "it is not installed", "Nothing to do")
    with refusing_bad_disk(name), one_at_a_time(name, QUIET):
        remove_leftovers(name)
        for path in found:
            shutil.rmtree(path)


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


def remove_leftovers(name: str) -> None:
    """Delete what killed installations left."""
    for pattern in (f".{name}-*.staging", f".{name}-*.old"):
        for leftover in env.root().glob(pattern):
            shutil.rmtree(leftover, ignore_errors=True)


def remove_older(release: Release, keep: Path) -> None:
    """Delete the release's environments of an older lock."""
    for path in keep.parent.glob(f"{env.family(release)}*"):
        if path != keep:
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def one_at_a_time(name: str, progress: Progress) -> Iterator[None]:
    """Wait for another installation of the same toolchain to finish."""
    env.root().mkdir(parents=True, exist_ok=True)
    lock = FileLock(env.root() / f".{name}.lock")
    if not try_now(lock):
        progress.stage(f"another edgevit is installing {name}; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def refusing_bad_disk(name: str) -> Iterator[None]:
    """A folder that can't be written or has filled up is one line."""
    try:
        yield
    except OSError as error:
        raise ToolchainError(
            f"cannot install or remove the {name} toolchain",
            f"{error.filename or env.root()}: {(error.strerror or str(error)).lower()}",
            "Correct that, or set EDGEVIT_TOOLCHAINS to another folder",
        ) from error


def try_now(lock: FileLock) -> bool:
    """Whether the lock was free."""
    try:
        lock.acquire(timeout=0)
    except TimeoutError:
        return False
    return True
