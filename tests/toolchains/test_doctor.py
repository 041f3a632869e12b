"""What the doctor calls a failure, what a note, and the command it gives for each."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import sys
from collections import namedtuple
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgevit.cli.doctor import command
from edgevit.targets.profiles import load_board
from edgevit.toolchains import doctor, environment, installation
from edgevit.toolchains.doctor import Check
from edgevit.toolchains.interpreters import Interpreter
from edgevit.toolchains.releases import find

Usage = namedtuple("Usage", "total used free")
Memory = namedtuple("Memory", "available")


@pytest.fixture
def no_toolchains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEVIT_TOOLCHAINS", str(tmp_path / "toolchains"))
    return tmp_path / "toolchains"


def only(checks: list[Check]) -> Check:
    [check] = checks
    return check


def test_this_environment_passes_its_own_examination() -> None:
    states = [check.state for check in (*doctor.python(), *doctor.packages())]
    assert "fails" not in states


def test_a_package_too_old_is_named_with_what_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.0.3" if name == "timm" else real(name))
    check = only(list(doctor.packages()))
    assert (check.state, check.found) == ("fails", "timm 1.0.3 is not >=1.0.15")
    assert check.fix == "Reinstall: pip install --upgrade edgevit"


def test_a_missing_package_is_named_even_if_it_is_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name == "torch":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert only(list(doctor.packages())).found == "torch is not installed"


def test_packages_that_break_each_other_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "CORE", "edgevit.no_such_module")
    check = only(list(doctor.imports()))
    assert (check.state, check.found) == (
        "fails",
        "ModuleNotFoundError: No module named 'edgevit.no_such_module'",
    )


def test_an_import_that_takes_the_process_down_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "CORE", "os; os.abort()")
    check = only(list(doctor.imports()))
    assert (check.state, check.found) == ("fails", "ended with exit code -6")


def test_an_absent_toolchain_is_a_note_unless_a_target_needs_it(no_toolchains: Path) -> None:
    states = {check.name: check.state for check in doctor.toolchains([], doctor.QUIET)}
    assert states == {"rknn": "note", "litert": "note"}
    checks = {check.name: check for check in doctor.toolchains([load_board("rk3588")], doctor.QUIET)}
    assert checks["rknn"] == Check(
        "rknn", "fails", "rknn-toolkit2 2.5.0: not installed", "Run: edgevit toolchain install rknn"
    )
    assert checks["litert"].state == "note"


def test_a_damaged_toolchain_fails(no_toolchains: Path) -> None:
    environment.folder("rknn").mkdir(parents=True)
    checks = {check.name: check for check in doctor.toolchains([], doctor.QUIET)}
    assert checks["rknn"] == Check(
        "rknn",
        "fails",
        "rknn-toolkit2 2.5.0: damaged: its installation did not finish",
        "Run: edgevit toolchain install rknn",
    )


def test_a_whole_toolchain_that_does_not_import_fails(no_toolchains: Path) -> None:
    folder = environment.folder("rknn")
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(sys.executable)
    installation.write_state(find("rknn"), Interpreter(Path(sys.executable), "3.11.0"), folder)
    checks = {check.name: check for check in doctor.toolchains([], doctor.QUIET)}
    assert checks["rknn"].state == "fails"
    assert "No module named" in checks["rknn"].found


@pytest.mark.toolchain
def test_the_installed_toolchains_pass() -> None:
    found = list(doctor.toolchains([], doctor.QUIET))
    assert {"rknn", "litert"} <= {check.name for check in found}
    assert [check.state for check in found] == ["ok"] * len(found)


@pytest.mark.parametrize(("free_mb", "state"), [(1000, "fails"), (3000, "note"), (9000, "ok")])
def test_memory_is_judged_by_what_models_need(
    monkeypatch: pytest.MonkeyPatch, free_mb: int, state: str
) -> None:
    monkeypatch.setattr(doctor, "container_room", lambda: None)
    monkeypatch.setattr(doctor.psutil, "virtual_memory", lambda: Memory(free_mb * 2**20))
    assert only(list(doctor.memory())).state == state


def test_a_containers_limit_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.psutil, "virtual_memory", lambda: Memory(64 * 2**30))
    monkeypatch.setattr(doctor, "container_room", lambda: 1024 * 2**20)
    check = only(list(doctor.memory()))
    assert (check.state, check.found) == ("fails", "1024 MB available, 1024 MB left of the container's limit")


def test_a_full_disk_fails_and_names_the_way_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, 100 * 2**20))
    check = doctor.room("run folder", tmp_path / "not" / "yet", 1000, "--out")
    assert check.state == "fails"
    assert check.found == f"100 MB free for {tmp_path / 'not' / 'yet'}"
    assert check.fix == "Make room (1000 MB are needed), or give another place by --out"


def test_a_folder_that_cannot_be_written_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor.os, "access", lambda *_: False)
    check = doctor.room("run folder", tmp_path, 1, "--out")
    assert (check.state, check.found) == ("fails", f"{tmp_path} can't be written to")


def test_a_missing_client_is_a_note_with_its_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    checks = {check.name: check for check in doctor.clients()}
    assert checks["adb"].state == "note"
    assert checks["adb"].fix == "Run: sudo apt-get install adb"


def test_exit_code_1_and_json_if_something_would_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [Check("Python", "ok", "3.11"), Check("memory", "fails", "10 MB", "Free some")]
    monkeypatch.setattr(doctor, "examine", lambda *_: found)
    plain = CliRunner().invoke(command, [])
    assert plain.exit_code == 1
    assert plain.stdout == (
        "ok    Python            3.11\n"
        "FAILS memory            10 MB\n"
        "                        Free some\n"
        "1 of 2 would fail\n"
    )
    answer = CliRunner().invoke(command, ["--json"])
    assert json.loads(answer.stdout)["fails"] == 1
    assert json.loads(answer.stdout)["checks"][1] == found[1].to_json()


def test_exit_code_0_if_nothing_would_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "examine", lambda *_: [Check("adb", "note", "not installed", "Run: x")])
    answer = CliRunner().invoke(command, [])
    assert (answer.exit_code, answer.stdout.splitlines()[-1]) == (0, "nothing would fail")
