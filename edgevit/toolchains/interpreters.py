"""Finds a Python that a vendor's packages run on: on the PATH, of pyenv, conda or uv, or one that uv installs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgevit.errors import ToolchainError
from edgevit.progress import Progress

ASK = "import ctypes, ensurepip, ssl, sys, venv; print('%d.%d.%d' % sys.version_info[:3])"
ASK_SECONDS = 20
UV_SECONDS = 900


@dataclass(frozen=True)
class Interpreter:
    """A working CPython that can make environments, and its version, such as 3.12.4."""

    path: Path
    version: str

    @property
    def minor(self) -> str:
        """3.12 of 3.12.4."""
        return self.version.rpartition(".")[0]


def variable(name: str) -> str:
    """The environment variable that names a toolchain's interpreter."""
    return f"EDGEVIT_{name.upper()}_PYTHON"


def find(name: str, pythons: Sequence[str], progress: Progress) -> Interpreter:
    """An interpreter of one of the versions `pythons`, the preferred first, for the toolchain `name`.

    Raises ToolchainError with the ways to get one.
    """
    what = f"cannot install the {name} toolchain"
    wanted = f"{', '.join(pythons[:-1])} or {pythons[-1]}" if len(pythons) > 1 else pythons[0]
    if chosen := os.environ.get(variable(name)):
        found = ask(Path(shutil.which(chosen) or chosen))
        if found is None or found.minor not in pythons:
            is_one = (
                "is not a Python that can make environments"
                if found is None
                else f"is Python {found.version}"
            )
            raise ToolchainError(
                what,
                f"{variable(name)}={chosen} {is_one}, and it needs {wanted}",
                "Name another one, or unset it",
            )
        return found
    for path in candidates(pythons):
        found = ask(path)
        if found is not None and found.minor in pythons:
            return found
    tried = ""
    if uv := uv_program():
        progress.stage(
            f"install Python {pythons[0]} with uv, for the {name} toolchain alone: it takes no newer one"
        )
        tried = last_words([uv, "python", "install", pythons[0]], UV_SECONDS)
        found = ask(uv_python(uv, pythons[0]))
        if found is not None and found.minor in pythons:
            return found
        tried = f", and uv could not install one ({tried})"
    raise ToolchainError(
        what,
        f"it needs Python {wanted}, with its venv module; none was found on the PATH, in pyenv, conda or uv{tried}",
        f'Install one ("uv python install {pythons[0]}", "pyenv install {pythons[0]}", "conda create -n py python='
        f"{pythons[0]}\", or your system's package python{pythons[0]}-venv), or name one in {variable(name)}",
    )


def candidates(pythons: Sequence[str]) -> Iterator[Path | None]:
    """Where an interpreter may be, in the order of the versions; edgevit's own first, since it works."""
    yield own()
    home = Path.home()
    pyenv = Path(os.environ.get("PYENV_ROOT") or home / ".pyenv")
    uv = uv_program()
    for version in pythons:
        if found := shutil.which(f"python{version}"):
            yield Path(found)
        yield from sorted((pyenv / "versions").glob(f"{version}.*/bin/python"), reverse=True)
        for conda in condas(home):
            yield from conda.glob(f"envs/*/bin/python{version}")
            yield conda / "bin" / f"python{version}"
        if uv:
            yield uv_python(uv, version)


def own() -> Path:
    """The Python that edgevit's environment was made from."""
    return Path(getattr(sys, "_base_executable", sys.executable))


def condas(home: Path) -> list[Path]:
    """Folders where conda may be installed."""
    named = os.environ.get("CONDA_EXE")
    usual = [home / each for each in ("miniconda3", "miniforge3", "anaconda3", "mambaforge")]
    return [each for each in ([Path(named).parents[1]] if named else []) + usual if each.is_dir()]


def uv_program() -> str | None:
    """uv on the PATH, or the one that came with edgevit."""
    beside = Path(sys.prefix) / "bin" / "uv"
    return shutil.which("uv") or (str(beside) if beside.is_file() else None)


def uv_python(uv: str, version: str) -> Path | None:
    """The interpreter that uv knows; None if it knows none."""
    words = run([uv, "python", "find", "--no-project", version], ASK_SECONDS)
    return Path(words) if words else None


def ask(path: Path | None) -> Interpreter | None:
    """The interpreter behind a path; None where it does not start or can't make environments (a pyenv shim, Debian
    without python3-venv)."""
    if path is None:
        return None
    words = run([str(path), "-I", "-c", ASK], ASK_SECONDS)
    return Interpreter(path, words) if words else None


def run(command: list[str], seconds: float) -> str | None:
    """What a command prints; None where it fails."""
    try:
        done = completed(command, seconds)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def last_words(command: list[str], seconds: float) -> str:
    """The last line that a command says of itself, at most 200 characters."""
    try:
        done = completed(command, seconds)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)[:200]
    lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    return lines[-1].strip()[:200]


def completed(command: list[str], seconds: float) -> subprocess.CompletedProcess[str]:
    """A command that has ended, however. Raises OSError and TimeoutExpired as `subprocess.run` does."""
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=seconds,
        stdin=subprocess.DEVNULL,
    )
