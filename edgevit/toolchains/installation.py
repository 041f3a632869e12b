"""Making and removing toolchain environments: built aside, proved, then renamed; never half-made, never twice."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs
from filelock import FileLock

from edgevit.errors import InputError, ToolchainError
from edgevit.files import replace_folder, write_atomically
from edgevit.progress import QUIET, Progress
from edgevit.toolchains import environment as env

# Users' pip settings that would put packages elsewhere or change which; indexes, proxies, certificates stay.
MISLEADING_PIP = {
    *("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_USER", "PIP_CONSTRAINT", "PIP_REQUIREMENT"),
    *("PIP_DRY_RUN", "PIP_EDITABLE", "PIP_PYTHON", "PIP_NO_BINARY", "PIP_REPORT", "PIP_QUIET"),
}


def install(name: str, progress: Progress) -> Path:
    """Make a toolchain's environment unless a healthy one is there; return its folder.

    Safe against a second installation at the same time and against being killed. Raises ToolchainError with the
    installer's own last error.
    """
    toolchain, final = env.known(name), env.folder(name)
    with refusing_bad_disk(name), one_at_a_time(name, progress):
        if env.damage(final) is None:
            prove_again(name, final, progress)
            return final
        remove_leftovers(name)
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
    progress.stage(f"install {env.TOOLCHAINS[name].title}: once; it takes a few minutes and is then reused")
    make_venv(name, staging)
    lock, log = env.lock_file(name), log_file(name)
    total, begun = len(env.pins(lock)), 0
    with log.open("w", encoding="utf-8") as sink, pip_install(staging, lock) as pip:
        for line in pip.stdout or ():
            sink.write(line)
            if match := re.match(r"Collecting ([\w.-]+)", line):
                begun += 1
                progress.advance(begun, max(begun, total), match[1])
    if pip.returncode != 0:
        raise ToolchainError(f"cannot install the {name} toolchain", last_error(log), f"See {log}")
    progress.advance(total, total, "checking")
    prove(name, staging)
    write_state(name, staging)


def make_venv(name: str, staging: Path) -> None:
    """An empty environment with pip. Raises ToolchainError where Python's own venv can't make one."""
    try:
        venv.EnvBuilder(with_pip=True, symlinks=True).create(staging)
    except subprocess.CalledProcessError:  # Debian ships venv and ensurepip apart from Python
        raise ToolchainError(
            f"cannot install the {name} toolchain",
            "this Python can't create environments with pip",
            "On Debian and Ubuntu: sudo apt-get install python3-venv",
        ) from None


@contextmanager
def pip_install(staging: Path, lock: Path) -> Iterator[subprocess.Popen[str]]:
    """pip at work on a lock; it ends with the block and with edgevit, however those end."""
    command = [
        *(env.interpreter(staging), "-I", str(env.START), str(os.getpid()), "-m", "pip", "install"),
        *("--require-hashes", "--no-deps", "--no-input", "--no-user", "--disable-pip-version-check"),
        *("--progress-bar", "off", "-r", str(lock)),
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


def prove(name: str, environment: Path) -> None:
    """Import the toolchain in its environment. Raises ToolchainError if that fails."""
    borrow = f"runpy.run_path({str(env.JOB)!r})['borrow']({str(env.borrowed())!r})"
    script = f"import runpy; {borrow}; {env.TOOLCHAINS[name].check}"
    process = subprocess.run(
        [env.interpreter(environment), "-I", "-c", script], capture_output=True, text=True, errors="replace"
    )
    if process.returncode != 0:
        lines = process.stderr.strip().splitlines() or [f"exit code {process.returncode}"]
        raise ToolchainError(
            f"cannot use the {name} toolchain",
            f"it is installed but does not work with torch {env.torch_version()} here ({lines[-1][:200]})",
            "Report this with your Python and torch versions",
        )


def write_state(name: str, environment: Path) -> None:
    """Record what a whole environment looks like and which torch it was proved with."""
    files, size = env.contents(environment)
    state = {
        "name": name,
        "lock": env.digest(name),
        "files": files,
        "bytes": size,
        "torch": env.torch_version(),
    }
    write_atomically(environment / env.STATE, json.dumps(state))


def prove_again(name: str, environment: Path, progress: Progress) -> None:
    """Another torch to borrow can break a toolchain whose own files are whole."""
    if json.loads((environment / env.STATE).read_text(encoding="utf-8")).get("torch") != env.torch_version():
        progress.stage(f"check {env.TOOLCHAINS[name].title} with torch {env.torch_version()}")
        prove(name, environment)
        write_state(name, environment)


def remove(name: str) -> None:
    """Delete a toolchain's environments. Raises InputError if there is none."""
    env.known(name)
    found = [path for path in env.root().glob(f"{name}-*") if path.is_dir()]
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


def remove_older(name: str, keep: Path) -> None:
    """Delete this Python's environments of an older lock."""
    tag = keep.name.rsplit("-", 1)[0]
    for path in keep.parent.glob(f"{tag}-*"):
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
