"""Steps run once, are whole or absent, and one process at a time owns a run directory."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from edgevit.errors import EdgevitError, InputError, ToolchainError
from edgevit.files import publish
from edgevit.run.folder import WouldRun, open_run
from edgevit.run.step import READERS
from edgevit.run.store import DAY_S, LOCKS, clean, contents, shared_store
from tests.test_imports import ORDER


def steps() -> list[str]:
    """Names of what lies in the store."""
    return [path.name for path in shared_store().iterdir() if path.name != LOCKS]


class Maker:
    """Counts how often a stage really ran."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, folder: Path) -> Mapping[str, Any]:
        self.calls += 1
        (folder / "out.txt").write_text(f"result {self.calls}")
        return {"calls": self.calls}


def test_unchanged_step_is_not_run_again(tmp_path: Path) -> None:
    make = Maker()
    with open_run(tmp_path) as run:
        first = run.step("stage", {"a": 1}, make)
    with open_run(tmp_path) as run:
        second = run.step("stage", {"a": 1}, make)
    assert (make.calls, first.cached, second.cached) == (1, False, True)
    assert second.path("out.txt").read_text() == "result 1"
    assert second.outputs == first.outputs


def test_changed_input_runs_again(tmp_path: Path) -> None:
    make = Maker()
    with open_run(tmp_path) as run:
        run.step("stage", {"a": 1}, make)
        run.step("stage", {"a": 2}, make)
    assert make.calls == 2


def test_failed_step_is_not_cached_and_leaves_no_folder(tmp_path: Path) -> None:
    def fail(folder: Path) -> Mapping[str, Any]:
        (folder / "half").write_text("half")
        raise ValueError("no")

    make = Maker()
    with open_run(tmp_path) as run:
        with pytest.raises(ValueError, match="no"):
            run.step("stage", {}, fail)
        assert steps() == []
        run.step("stage", {}, make)
    assert make.calls == 1


def test_log_of_a_failed_step_is_kept_where_the_error_says(tmp_path: Path) -> None:
    def fail(folder: Path) -> Mapping[str, Any]:
        log = folder / "job" / "log.txt"
        log.parent.mkdir()
        log.write_text("the vendor's words")
        raise ToolchainError("the toolkit failed", "no", f"See {log}")

    with open_run(tmp_path) as run, pytest.raises(ToolchainError) as caught:
        run.step("rk3588-int8", {}, fail)
    kept = tmp_path / "logs" / "rk3588-int8" / "job" / "log.txt"
    assert str(caught.value) == f"the toolkit failed: no. See {kept}."
    assert kept.read_text() == "the vendor's words"


@pytest.mark.parametrize("damage", ["truncate", "alter", "delete"])
def test_damaged_output_is_made_again(tmp_path: Path, damage: str) -> None:
    make = Maker()
    with open_run(tmp_path) as run:
        output = run.step("stage", {}, make).path("out.txt")
        if damage == "truncate":
            output.write_text("res")
        elif damage == "alter":
            output.write_text("RESULT 1")
        else:
            output.unlink()
    with open_run(tmp_path) as run:
        again = run.step("stage", {}, make)
    assert make.calls == 2
    assert again.path("out.txt").read_text() == "result 2"


def test_corrupt_record_is_made_again(tmp_path: Path) -> None:
    make = Maker()
    with open_run(tmp_path) as run:
        run.step("stage", {}, make).path("step.json").write_text("{half")
    with open_run(tmp_path) as run:
        run.step("stage", {}, make)
    assert make.calls == 2


def test_killed_run_leaves_no_step_and_its_remains_are_removed(tmp_path: Path) -> None:
    script = f"""
import os, signal, pathlib
from edgevit.run.folder import open_run
def make(folder):
    (folder / "half").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
with open_run(pathlib.Path({str(tmp_path)!r})) as run:
    run.step("stage", {{}}, make)
"""
    process = subprocess.run([sys.executable, "-c", script], check=False)
    assert process.returncode == -signal.SIGKILL
    assert all(name.startswith(".stage") for name in steps())
    make = Maker()
    with open_run(tmp_path) as run:
        run.step("stage", {}, make)
    assert make.calls == 1
    assert [name[:6] for name in steps()] == ["stage-"]


def test_second_process_is_refused_while_the_first_works(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "x"
    script = f"""
import pathlib
from edgevit.run.folder import open_run
try:
    with open_run(pathlib.Path({str(folder)!r})): print("opened")
except Exception as error: print(error)
"""
    with open_run(folder):
        output = subprocess.run(
            [sys.executable, "-c", script], check=True, capture_output=True, text=True
        ).stdout
    expected = (
        f"cannot write to {folder}: another edgevit is using it. Wait for it, or choose another --out.\n"
    )
    assert output == expected


def test_file_in_the_way_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("a file")
    with pytest.raises(InputError) as caught, open_run(tmp_path / "x"):
        pass
    assert (
        str(caught.value)
        == f"cannot write to {tmp_path / 'x'}: file exists. Choose another folder with --out."
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_folder_is_one_line(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="permission denied"), open_run(tmp_path / "x"):
        pass


def test_full_disk_is_one_line_and_earlier_steps_stay(tmp_path: Path) -> None:
    def fill(_: Path) -> Mapping[str, Any]:
        raise OSError(errno.ENOSPC, "No space left on device")

    make = Maker()
    with open_run(tmp_path) as run:
        run.step("first", {}, make)
        with pytest.raises(
            EdgevitError, match=r"no space left on device \(\d+ MB free\)\. Make room"
        ) as caught:
            run.step("second", {}, fill)
        assert str(caught.value).startswith(f"cannot write to {shared_store()}: ")
    with open_run(tmp_path) as run:
        assert run.step("first", {}, make).cached


def test_file_size_limit_is_explained_like_a_full_disk(tmp_path: Path) -> None:
    def write(folder: Path) -> Mapping[str, Any]:
        (folder / "big").write_bytes(bytes(2_000_000))
        return {}

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with open_run(tmp_path) as run:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
        try:
            with pytest.raises(EdgevitError, match="file too large"):
                run.step("stage", {}, write)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_dry_run_makes_nothing(tmp_path: Path) -> None:
    with open_run(tmp_path / "x", dry=True) as run, pytest.raises(WouldRun):
        run.step("stage", {}, Maker())
    assert not (tmp_path / "x").exists()


def test_step_records_time_and_memory(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        step = run.step("stage", {}, Maker())
    record = json.loads(step.path("step.json").read_text())
    assert record["peak_memory_mb"] > 5
    assert record["seconds"] >= 0


def test_published_file_is_replaced_whole(tmp_path: Path) -> None:
    for text in ("one", "two"):
        source = tmp_path / text
        source.write_text(text)
        publish(source, tmp_path / "out" / "model.bin")
    assert (tmp_path / "out" / "model.bin").read_text() == "two"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.bin"]


def test_two_runs_share_their_steps_and_each_holds_them(tmp_path: Path) -> None:
    make = Maker()
    with open_run(tmp_path / "a") as run:
        first = run.step("stage", {}, make)
    with open_run(tmp_path / "b") as run:
        second = run.step("stage", {}, make)
        assert (make.calls, second.cached, run.steps) == (1, True, (second,))
    for name in ("a", "b"):
        held = tmp_path / name / "stages" / first.folder.name / "out.txt"
        assert held.read_text() == "result 1"


def test_two_processes_make_a_step_once(tmp_path: Path) -> None:
    script = f"""
import pathlib, sys, time
from edgevit.run.folder import open_run
def make(folder):
    time.sleep(1)
    (pathlib.Path({str(tmp_path)!r}) / ("made by " + sys.argv[1])).touch()
    return {{}}
with open_run(pathlib.Path({str(tmp_path)!r}) / sys.argv[1]) as run:
    run.step("stage", {{}}, make)
"""
    both = [subprocess.Popen([sys.executable, "-c", script, name]) for name in ("a", "b")]
    assert [process.wait() for process in both] == [0, 0]
    assert len(list(tmp_path.glob("made by *"))) == 1


def test_a_step_asked_for_again_is_as_it_was(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        first = run.step("stage", {}, Maker())
        assert run.step("stage", {}, Maker()) is first
        assert run.steps == (first,)


def test_steps_of_earlier_runs_leave_the_folder_and_stay_in_the_store(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        run.step("old", {}, Maker())
    with open_run(tmp_path) as run:
        kept = run.step("new", {}, Maker())
        run.forget_others()
    assert [path.name for path in (tmp_path / "stages").iterdir()] == [kept.folder.name]
    assert len(steps()) == 2


def test_a_store_that_cannot_be_made_leaves_the_run_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("EDGEVIT_CACHE", str(tmp_path / "file" / "store"))
    with open_run(tmp_path / "run") as run:
        step = run.step("stage", {}, Maker())
    assert step.folder.parent == tmp_path / "run" / "stages"


def test_only_unused_steps_are_cleaned(tmp_path: Path) -> None:
    with open_run(None) as run:
        old, new = run.step("old", {}, Maker()), run.step("new", {}, Maker())
    past = old.folder.stat().st_mtime - 40 * DAY_S
    os.utime(old.folder, (past, past))
    (shared_store() / ".killed-0.making").mkdir()
    assert (contents(shared_store()).steps, clean(shared_store(), 30).steps) == (2, 1)
    assert steps() == [new.folder.name]
    clean(shared_store(), 0)
    assert steps() == []


def test_the_rooms_that_only_read_steps_are_the_last_ones() -> None:
    rooms = {name.removesuffix(".py") for name in READERS if "/" not in name} - {"__init__", "console"}
    assert rooms == set().union(*ORDER[ORDER.index({"conversion"}) + 1 :])
