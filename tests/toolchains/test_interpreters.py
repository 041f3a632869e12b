"""A toolchain with a Python of its own finds one wherever people keep it, or says how to get one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from edgevit.errors import ToolchainError
from edgevit.progress import QUIET
from edgevit.toolchains import interpreters

OWN = f"{sys.version_info[0]}.{sys.version_info[1]}"
VARIABLE = interpreters.variable("rknn")


@pytest.fixture(autouse=True)
def bare_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home and a PATH without any Python, and edgevit's own of a version that nobody asks for."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    for name in (VARIABLE, "PYENV_ROOT", "CONDA_EXE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(interpreters, "own", lambda: tmp_path / "none")
    monkeypatch.setattr(interpreters.sys, "prefix", str(tmp_path / "edgevit's"))
    return tmp_path


def python(path: Path, version: str, works: bool = True) -> Path:
    """A program that answers as a Python of that version does, or as a pyenv shim of a version not chosen."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho {version}\nexit {0 if works else 127}\n")
    path.chmod(0o755)
    return path


def test_edgevits_own_python_is_taken_where_it_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreters, "own", lambda: Path(sys.executable))
    assert interpreters.find("rknn", (OWN,), QUIET).version.startswith(f"{OWN}.")


@pytest.mark.parametrize(
    "place",
    [
        "bin/python3.12",
        ".pyenv/versions/3.12.4/bin/python",
        "miniforge3/envs/some env/bin/python3.12",
        "miniconda3/bin/python3.12",
    ],
)
def test_it_is_found_on_the_path_in_pyenv_and_in_conda(bare_machine: Path, place: str) -> None:
    path = python(bare_machine / place, "3.12.4")
    assert interpreters.find("rknn", ("3.12", "3.11"), QUIET) == interpreters.Interpreter(path, "3.12.4")


def test_the_preferred_version_wins_and_one_that_does_not_start_is_passed_over(bare_machine: Path) -> None:
    python(bare_machine / "bin" / "python3.12", "pyenv: python3.12: command not found", works=False)
    python(bare_machine / "bin" / "python3.10", "3.10.1")
    python(bare_machine / "bin" / "python3.11", "3.11.9")
    assert interpreters.find("rknn", ("3.12", "3.11", "3.10"), QUIET).version == "3.11.9"


def test_uv_is_asked_and_then_installs_one(bare_machine: Path) -> None:
    python(bare_machine / "uv python", "3.12.7")
    uv = bare_machine / "bin" / "uv"
    uv.parent.mkdir()
    made = bare_machine / "made"
    uv.write_text(
        "#!/bin/sh\n"
        f'if [ "$2" = install ]; then : > "{made}"; exit 0; fi\n'
        f'if [ "$2" = find ] && [ -e "{made}" ]; then echo "{bare_machine}/uv python"; exit 0; fi\nexit 1\n'
    )
    uv.chmod(0o755)
    assert interpreters.find("rknn", ("3.12",), QUIET).version == "3.12.7"
    assert made.exists()


def test_the_uv_that_came_with_edgevit_serves_and_its_failure_is_passed_on(bare_machine: Path) -> None:
    uv = bare_machine / "edgevit's" / "bin" / "uv"
    uv.parent.mkdir(parents=True)
    uv.write_text("#!/bin/sh\necho 'error: Failed to download: no network' >&2\nexit 2\n")
    uv.chmod(0o755)
    with pytest.raises(
        ToolchainError, match=r"uv could not install one \(error: Failed to download: no network\)"
    ):
        interpreters.find("rknn", ("3.12",), QUIET)


def test_none_at_all_is_one_line_with_the_ways_to_get_one() -> None:
    with pytest.raises(ToolchainError) as caught:
        interpreters.find("rknn", ("3.12", "3.11", "3.10"), QUIET)
    line = str(caught.value)
    assert line.startswith("cannot install the rknn toolchain: it needs Python 3.12, 3.11 or 3.10, ")
    assert "uv python install 3.12" in line and VARIABLE in line


@pytest.mark.parametrize(
    ("version", "works", "why"),
    [("3.13.0", True, "is Python 3.13.0"), ("nonsense", False, "is not a Python that can make environments")],
)
def test_a_named_python_that_does_not_serve_is_refused(
    bare_machine: Path, monkeypatch: pytest.MonkeyPatch, version: str, works: bool, why: str
) -> None:
    path = python(bare_machine / "my $(touch x) python", version, works)
    monkeypatch.setenv(VARIABLE, str(path))
    with pytest.raises(ToolchainError) as caught:
        interpreters.find("rknn", ("3.12", "3.11"), QUIET)
    assert str(caught.value) == (
        f"cannot install the rknn toolchain: {VARIABLE}={path} {why}, and it needs 3.12 or 3.11. "
        "Name another one, or unset it."
    )


def test_a_named_python_comes_first(bare_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python(bare_machine / "bin" / "python3.12", "3.12.1")
    chosen = python(bare_machine / "other", "3.11.2")
    monkeypatch.setenv(VARIABLE, str(chosen))
    assert interpreters.find("rknn", ("3.12", "3.11"), QUIET).path == chosen
