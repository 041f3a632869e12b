"""edgevit bench as people type it, on this machine and over ssh, with a model small enough for a test."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import pytest
from click.testing import CliRunner, Result

from edgevit.bench.session import Session
from edgevit.cli.bench import command
from edgevit.errors import EdgevitError
from tests.bench.made_run import CLASSES, FAST, IMAGES, SIZE, SPEED, Tree, make_run, write_stand_in
from tests.bench.npu_library import answers, compiled, model, needs_compiler
from tests.bench.ssh_server import Server, needs_sshd, ssh_server

QUICK = ["--runs", "3", "--seconds", "0"]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    made = Tree(tmp_path / "sys")
    made.make()
    return made


@pytest.fixture
def run(tmp_path: Path, tree: Tree) -> Path:
    return make_run(tmp_path / "run", tree, cores=3)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    stand_in = write_stand_in(tmp_path / "stand_in", ms=1)
    with ssh_server(tmp_path / "sshd", monkeypatch, {"PYTHONPATH": str(stand_in)}) as made:
        made.accept()
        yield made


def add_board(name: str, **values: str) -> None:
    path = Path(platformdirs.user_config_dir("edgevit")) / "boards.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
    path.write_text("\n".join(lines) + "\n")


def board_of(server: Server, folder: Path, **values: str) -> Path:
    """Make `folder` the work folder of the board "desk" behind `server`."""
    folder.mkdir(exist_ok=True)
    add_board("desk", address=server.address, python=sys.executable, work_folder=str(folder), **values)
    return folder


def bench(*arguments: object) -> Result:
    result = CliRunner().invoke(command, [str(each) for each in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit | EdgevitError):
        raise result.exception
    return result


def assert_same(record: dict[str, Any]) -> None:
    """Every prediction is the local one; outputs differ by rounding at most."""
    assert record["same_as_local"]["n"] == record["same_as_local"]["agree"] == IMAGES
    assert record["same_as_local"]["max_output_difference"] < 1e-6


def test_host_run_is_saved_in_the_run_directory(run: Path) -> None:
    result = bench(run, "--board", "host", "--threads", "1,2", *QUICK)
    assert result.exit_code == 0, result.exception
    saved = json.loads((run / "bench" / "host-m-onnx-int8.json").read_text())
    assert saved["how"] == "host CPU"
    assert_same(saved)
    assert saved["accuracy"]["n"] == IMAGES
    assert saved["accuracy"]["top1"] == 1.0
    assert set(saved["latency"]["threads"]) == {"1", "2"}
    assert saved["latency"]["threads"]["1"]["n"] == 3
    assert not saved["clocks"]["pinned"]
    assert saved["clocks"]["before"]["domains"]["cpu"] == {
        "governor": "ondemand",
        "frequency": SPEED,
        "unit": "kHz",
    }
    assert list(saved["clocks"]["before"]["temperature"].values()) == [41.5]
    assert "clocks were not pinned: they floated with load and heat" in result.stdout
    assert "host CPU (host)" in result.stdout


def test_json_is_the_record(run: Path) -> None:
    result = bench(run, "--board", "host", "--json", "--images", "4", *QUICK)
    (record,) = json.loads(result.stdout)
    assert record == json.loads((run / "bench" / "host-m-onnx-int8.json").read_text())
    assert record["accuracy"]["n"] == 4


def test_a_run_for_an_npu_only_is_refused_here(run: Path) -> None:
    result = bench(run, "--board", "host", "--target", "npu")
    assert str(result.exception) == (
        "cannot measure m-npu-int8.rknn on this machine: a .rknn runs on its Rockchip NPU only. "
        "Give the board with --board ssh://user@address."
    )


def test_lone_artefact_is_timed_on_noise(run: Path, tmp_path: Path) -> None:
    lone = tmp_path / "lone; x.onnx"
    shutil.copy(run / "m-onnx-int8.onnx", lone)
    (record,) = json.loads(bench(lone, "--board", "host", "--json", "--threads", "1", *QUICK).stdout)
    assert record["latency"]["threads"]["1"]["n"] == 3
    assert record["accuracy"] is None


def test_every_tensor_is_kept(run: Path) -> None:
    result = bench(run, "--board", "host", "--dump-tensors", *QUICK)
    assert result.exit_code == 0, result.exception
    with np.load(run / "bench" / "host-m-onnx-int8-tensors.npz", allow_pickle=False) as found:
        names = list(found["names"])
        assert set(names) == {"pooled", "flat", "logits"}
        local = np.load(run / "stages" / "onnx-int8" / "outputs.npy")[0]
        np.testing.assert_allclose(found[str(names.index("logits"))][0], local, atol=1e-6)


def test_unpinnable_clocks_are_refused_before_anything_is_sent(tmp_path: Path) -> None:
    run = make_run(tmp_path / "bare")
    result = bench(run, "--board", "host", "--pin-clocks", *QUICK)
    assert str(result.exception) == (
        "cannot pin clocks: the profile onnx names none. Give the board a profile with [clocks] in boards.toml "
        "(edgevit boards new NAME)."
    )


def test_pinned_clocks_are_set_and_put_back(run: Path, tree: Tree) -> None:
    result = bench(run, "--board", "host", "--pin-clocks", "--json", *QUICK)
    (record,) = json.loads(result.stdout)
    assert record["clocks"]["pinned"]
    assert record["clocks"]["after"]["domains"]["cpu"]["frequency"] == FAST
    assert record["clocks"]["throttled"] is False
    assert tree.floats()


def test_profile_of_another_board_is_noticed(run: Path, tree: Tree) -> None:
    shutil.rmtree(tree.folder)
    result = bench(run, "--board", "host", "--pin-clocks", *QUICK)
    assert str(result.exception) == (
        "cannot pin the clocks of host: none of the profile's clock files is here. Check that the profile is this "
        "board's (edgevit boards probe), or leave --pin-clocks out."
    )


@pytest.mark.ssh
@needs_sshd
class TestOverSsh:
    def test_predictions_are_those_of_the_local_evaluation(
        self, run: Path, server: Server, tmp_path: Path
    ) -> None:
        work = board_of(server, tmp_path / "a b; touch 'c'")
        result = bench(run, "--board", "desk", "--target", "onnx", "--json", *QUICK)
        (record,) = json.loads(result.stdout)
        assert_same(record)
        assert record["where"] == server.address
        assert record["how"].startswith("measured on ")
        assert list(work.iterdir()) == []

    def test_npu_of_three_cores(self, run: Path, server: Server, tmp_path: Path) -> None:
        work = board_of(server, tmp_path / "work")
        result = bench(run, "--board", "desk", "--target", "npu", "--pin-clocks", "--json", *QUICK)
        (record,) = json.loads(result.stdout)
        masks = record["core_masks"]
        assert list(masks) == ["0", "0_1", "0_1_2", "one model each, 3 side by side"]
        assert masks["one model each, 3 side by side"]["n"] == 9
        assert record["latency"]["threads"] == {"1": masks["0"]}
        assert record["same_as_local"]["n"] == IMAGES
        assert record["versions"]["librknnrt"] == "not found"
        assert list(work.iterdir()) == []

    @needs_compiler
    def test_a_board_with_nothing_but_the_library_gives_its_answers(
        self, run: Path, server: Server, tmp_path: Path
    ) -> None:
        shutil.rmtree(tmp_path / "stand_in" / "rknnlite")
        pixels = np.load(run / "stages" / "validation" / "pixels.npy")
        model(run / "m-npu-int8.rknn", (SIZE, SIZE, 3), CLASSES)
        np.save(run / "stages" / "npu-int8" / "outputs.npy", answers(pixels, CLASSES, mask=1))
        work = board_of(server, tmp_path / "work", npu_library=str(compiled(tmp_path / "lib")))
        result = bench(run, "--board", "desk", "--target", "npu", "--json", *QUICK)
        (record,) = json.loads(result.stdout)
        assert record["same_as_local"]["n"] == record["same_as_local"]["agree"] == IMAGES
        assert record["same_as_local"]["max_output_difference"] < 1e-3
        assert record["versions"]["librknnrt"] == "2.5.0"
        assert list(record["core_masks"]) == ["0", "0_1", "0_1_2", "one model each, 3 side by side"]
        assert [(layer["op"], layer["us"]) for layer in record["layers"]] == [
            ("InputOperator", 4),
            ("Conv", 52),
            ("OutputOperator", 9),
        ]
        assert list(work.iterdir()) == []

    @needs_compiler
    @pytest.mark.parametrize(
        ("words", "why"),
        [
            (
                "newer",
                "rknn_init: it does not take the model: the file is damaged, or made by a newer toolkit",
            ),
            ("busy", "rknn_init: the NPU is not available: no driver, or another program holds it (code -3)"),
            ("no-memory", "rknn_create_mem: out of memory (384 bytes)"),
        ],
    )
    def test_the_librarys_own_reason_is_passed_on(
        self, run: Path, server: Server, tmp_path: Path, words: str, why: str
    ) -> None:
        model(run / "m-npu-int8.rknn", (SIZE, SIZE, 3), CLASSES, words)
        work = board_of(server, tmp_path / "work", npu_library=str(compiled(tmp_path / "lib")))
        result = bench(run, "--board", "desk", "--target", "npu", *QUICK)
        assert str(result.exception).startswith(
            f"cannot measure on {server.address}: the NPU's runtime does not start: {why}"
        )
        wait_until_empty(work)

    def test_what_a_power_cut_left_is_swept_and_another_measurement_is_noticed(
        self, run: Path, server: Server, tmp_path: Path, tree: Tree
    ) -> None:
        work = board_of(server, tmp_path / "work")
        left, busy, foreign = work / "edgevit-0123", work / "edgevit-4567", work / "edgevit-mine"
        # A folder that others may write to is no guard's: its restore.json could name any file.
        planted, target = work / "edgevit-89ab", tmp_path / "target"
        for folder in (left, busy, foreign, planted):
            folder.mkdir(mode=0o700)
        planted.chmod(0o777)
        target.write_text("as it was")
        (planted / "restore.json").write_text(json.dumps([[str(target), "changed"]]))
        for folder in (left, busy, planted):
            (folder / "lock").write_text("")
        (left / "pid").write_text(str(os.getpid()))  # by now another program's number
        speed = Path(tree.clock()["set_frequency"])
        (left / "restore.json").write_text(json.dumps([[str(speed), str(SPEED)]]))
        speed.write_text("1\n")
        with (busy / "lock").open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            result = bench(run, "--board", "desk", "--target", "onnx", "--json", *QUICK)
        (record,) = json.loads(result.stdout)
        assert record["warnings"] == [
            f"another edgevit bench is under way on {server.address}: each disturbs the other's times"
        ]
        assert sorted(work.iterdir()) == sorted([busy, foreign, planted])
        assert target.read_text() == "as it was"
        assert tree.floats()

    def test_more_images_than_there_are_is_said(self, run: Path, server: Server, tmp_path: Path) -> None:
        board_of(server, tmp_path / "work")
        result = bench(run, "--board", "desk", "--target", "onnx", "--images", "500", *QUICK)
        assert f"500 images are asked for and the run has {IMAGES}: all of them" in result.stderr

    def test_no_room(self, run: Path, server: Server, tmp_path: Path) -> None:
        small = tmp_path / "small"
        small.mkdir()
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "none", small], capture_output=True
        )
        if mounted.returncode != 0:
            pytest.skip("may not mount a small disk here")
        try:
            board_of(server, small)
            result = bench(run, "--board", "desk", "--target", "onnx", *QUICK)
            assert str(result.exception) == (
                f"not enough room on {server.address}: {small} has 1 MB free and 4 MB are needed. "
                "Make room, use fewer --images, or give another work_folder in boards.toml."
            )
            wait_until_empty(small)
        finally:
            subprocess.run(["umount", small], check=True)

    def test_disk_that_fills_up_while_copying(
        self, run: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("edgevit.bench.session.SPARE_BYTES", -(1 << 30))
        (run / "m-onnx-int8.onnx").open("ab").write(bytes(2 << 20))
        small = tmp_path / "small"
        small.mkdir()
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "none", small], capture_output=True
        )
        if mounted.returncode != 0:
            pytest.skip("may not mount a small disk here")
        try:
            board_of(server, small)
            result = bench(run, "--board", "desk", "--target", "onnx", *QUICK)
            message = str(result.exception)
            assert message.startswith(f"cannot copy m-onnx-int8.onnx to {server.address}:{small}/edgevit-")
            assert message.endswith(
                "No space left on device. Make room on the board, or give another work folder in boards.toml."
            )
            wait_until_empty(small)
        finally:
            subprocess.run(["umount", small], check=True)

    def test_no_python(self, run: Path, server: Server) -> None:
        add_board("desk", address=server.address, python="python9")
        result = bench(run, "--board", "desk", "--target", "onnx", *QUICK)
        assert str(result.exception) == (
            f"cannot measure on {server.address}: there is no python9. Install it there (Debian, Ubuntu: sudo "
            "apt-get install python3 python3-venv), or name another with python in boards.toml."
        )

    @pytest.mark.parametrize(
        ("target", "package", "module"),
        [("onnx", "onnxruntime", "onnxruntime"), ("npu", "librknnrt.so", "rknnlite")],
    )
    def test_no_runtime(
        self,
        run: Path,
        server: Server,
        tmp_path: Path,
        target: str,
        package: str,
        module: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        shutil.rmtree(tmp_path / "stand_in" / "rknnlite")
        # A finder on the board that knows no such package, as in a Python without it.
        (tmp_path / "stand_in" / "sitecustomize.py").write_text(
            "import importlib.util as util\nreal = util.find_spec\n"
            f"util.find_spec = lambda name, *rest: None if name == {module!r} else real(name, *rest)\n"
        )
        copied = []
        push = Session.push
        monkeypatch.setattr(Session, "push", lambda self, files: copied.extend(files) or push(self, files))
        work = board_of(server, tmp_path / "work")
        result = bench(run, "--board", "desk", "--target", target, *QUICK)
        assert str(result.exception).startswith(
            f"cannot measure on {server.address}: {package} is not installed there"
        )
        if target == "onnx":
            assert str(result.exception).endswith(
                f"there. On the board: {sys.executable} -m pip install onnxruntime."
            )
        else:
            assert "(there is no librknnrt.so in /usr/lib, " in str(result.exception)
        assert not [name for name in copied if name.endswith((".npy", ".onnx", ".rknn"))]
        wait_until_empty(work)

    def test_work_folder_that_is_not_there(self, run: Path, server: Server) -> None:
        add_board("desk", address=server.address, python=sys.executable, work_folder="/no/such")
        result = bench(run, "--board", "desk", "--target", "onnx", *QUICK)
        assert str(result.exception) == (
            f"cannot work in /no/such on {server.address}: no such file or directory. Give another work_folder in "
            "boards.toml."
        )

    def test_runner_that_is_killed(self, run: Path, server: Server, tmp_path: Path, tree: Tree) -> None:
        work = board_of(server, tmp_path / "work")
        api = tmp_path / "stand_in" / "rknnlite" / "api.py"
        api.write_text(
            api.read_text() + "\nimport os\nRKNNLite.release = lambda self: os.kill(os.getpid(), 11)\n"
        )
        result = bench(run, "--board", "desk", "--target", "npu", "--pin-clocks", *QUICK)
        assert str(result.exception).startswith(
            f"the runner on {server.address} was killed by signal 11: no result"
        )
        wait_until_empty(work)
        assert tree.floats()

    def test_older_library_is_named_before_it_fails_cryptically(
        self, run: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (run / "m-npu-int8.rknn").write_bytes(b"RKNN newer")
        library = tmp_path / "librknnrt.so"
        library.write_bytes(b"\0librknnrt version: 2.3.2 (429f97ae6b@2025-04-09T09:09:27)\0")
        from edgevit.bench import measure

        real = measure.prepare

        def prepare(*arguments: object) -> object:
            files, request = real(*arguments)
            return files, {**request, "libraries": [str(library)]}

        monkeypatch.setattr(measure, "prepare", prepare)
        board_of(server, tmp_path / "work")
        result = bench(run, "--board", "desk", "--target", "npu", *QUICK)
        assert str(result.exception) == (
            f"cannot measure on {server.address}: the NPU's runtime does not start (code -1): {library} can't be "
            f"used ({library}: file too short): the board's librknnrt 2.3.2 is older than the rknn-toolkit2 2.5.0 "
            "that made the file. Copy a newer librknnrt.so of https://github.com/airockchip/rknn-toolkit2 to "
            "/usr/lib there."
        )
        assert "librknnrt 2.3.2 is older than the rknn-toolkit2 2.5.0" in result.stderr


def wait_until_empty(folder: Path) -> None:
    for _ in range(600):
        if not list(folder.iterdir()):
            return
        time.sleep(0.05)
    raise AssertionError(list(folder.iterdir()))
