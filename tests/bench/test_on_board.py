"""The runner by itself: what it computes, and what it costs."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgevit.backends import board_runtime
from edgevit.backends.registry import backends
from edgevit.backends.rknn.backend import RKNN
from edgevit.bench import guard, on_board
from edgevit.bench.session import RUNNER, launcher
from tests.bench.made_run import FAST, Tree, write_stand_in

STANDARD = sys.stdlib_module_names | {"__future__"}
RUNTIMES = {"numpy", "rknnlite", "ai_edge_litert", "tflite_runtime", "onnxruntime", "pkg_resources"}


def request(**values: Any) -> dict[str, Any]:
    """A request for a made-up NPU with one core, whatever isn't given."""
    usual = {
        "title": "m.rknn",
        "artefact": "m.rknn",
        "pixels": None,
        "images": 0,
        "shape": [8, 8, 3],
        "mean": [0.0] * 3,
        "std": [1.0] * 3,
        "threads": None,
        "runs": 20,
        "seconds": 0.0,
        "warm_up": 2,
        "npu_cores": 1,
        "clocks": {},
        "temperature": [],
        "pin": False,
        "dump": None,
        "tools": {},
        "packages": ["numpy"],
    }
    return {**usual, **values}


def run(folder: Path, stand_in: Path, asked: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """What the runner said last, and what went to its standard error."""
    folder.mkdir(exist_ok=True)
    (folder / "m.rknn").write_bytes(b"RKNN made up")
    (folder / "request.json").write_text(json.dumps(asked))
    beside = {path.name: path for path in RKNN.on_board.beside}
    for name, path in {**RUNNER, **beside, "runtime.py": RKNN.on_board.runtime}.items():
        shutil.copyfile(path, folder / name)
    done = subprocess.run(
        [sys.executable, str(folder / "on_board.py"), str(folder / "request.json")],
        env={**os.environ, "PYTHONPATH": str(stand_in)},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def test_percentiles_are_samples() -> None:
    found = on_board.summary([float(value) for value in range(100, 0, -1)])
    assert (found["min"], found["p50"], found["p90"], found["p99"]) == (1.0, 50.0, 90.0, 99.0)
    assert (found["n"], found["mean"], found["throughput"]) == (100, 50.5, pytest.approx(1000 / 50.5))


@pytest.mark.parametrize(("n", "median"), [(1, 1.0), (2, 1.0), (3, 2.0), (50, 25.0)])
def test_the_median_of_few_samples_is_the_lower_middle_one(n: int, median: float) -> None:
    assert on_board.summary([float(value) for value in range(1, n + 1)])["p50"] == median


def test_many_samples_are_thinned_and_counted() -> None:
    found = on_board.summary([1.0] * 5001)
    assert found["n"] == 5001
    assert len(found["samples_ms"]) <= on_board.MAX_SAMPLES


@pytest.mark.parametrize(
    ("cores", "counts"), [(1, [1]), (2, [1, 2]), (4, [1, 2, 4]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])]
)
def test_threads_to_try(cores: int, counts: list[int]) -> None:
    assert board_runtime.thread_counts(cores) == counts


def test_both_limits_must_be_reached() -> None:
    asked = request(runs=3, seconds=0.05, warm_up=0)
    calls = 0

    def infer(given: object) -> None:
        nonlocal calls
        calls += 1
        time.sleep(0.005)

    assert 3 < len(on_board.timed(infer, None, asked, "")) == calls
    assert len(on_board.timed(infer, None, request(runs=15, seconds=0.0), "")) == 15


def test_a_single_core_takes_no_mask_and_what_libraries_print_is_kept_apart(tmp_path: Path) -> None:
    stand_in = write_stand_in(tmp_path / "stand_in", ms=1)
    pixels = np.zeros((2, 8, 8, 3), np.uint8)
    (tmp_path / "work").mkdir()
    np.save(tmp_path / "work" / "pixels.npy", pixels)
    said, log = run(tmp_path / "work", stand_in, request(pixels="pixels.npy", images=2))
    assert said["result"]["core_masks"] is None
    assert "rknn-toolkit-lite2 version" in log
    # The stand-in answers with the mask it was given: 0 is the runtime's own default.
    assert np.array_equal(np.load(tmp_path / "work" / "outputs.npy"), np.zeros((2, 5), np.float32))


def test_masks_are_those_of_the_vendor(tmp_path: Path) -> None:
    stand_in = write_stand_in(tmp_path / "stand_in", ms=1)
    said, _ = run(tmp_path / "work", stand_in, request(npu_cores=2))
    assert list(said["result"]["core_masks"]) == ["0", "0_1", "one model each, 2 side by side"]


@pytest.mark.slow
def test_side_by_side_counts_all_cores(tmp_path: Path) -> None:
    stand_in = write_stand_in(tmp_path / "stand_in", ms=20)
    said, _ = run(tmp_path / "work", stand_in, request(npu_cores=3, runs=30))
    masks = said["result"]["core_masks"]
    together = masks["one model each, 3 side by side"]
    assert together["n"] == 90
    assert together["throughput"] > 1.5 * masks["0"]["throughput"]


def test_a_file_of_an_unknown_size_is_refused_in_words(tmp_path: Path) -> None:
    stand_in = write_stand_in(tmp_path / "stand_in", ms=1)
    said, _ = run(tmp_path / "work", stand_in, request(shape=None))
    assert said["error"]["why"].startswith("a .rknn does not tell the size of its input")


def test_tensors_of_an_npu_are_said_to_be_out_of_reach(tmp_path: Path) -> None:
    stand_in = write_stand_in(tmp_path / "stand_in", ms=1)
    (tmp_path / "work").mkdir()
    said, _ = run(tmp_path / "work", stand_in, request(dump="all.onnx"))
    assert said["result"]["tensors"] is False


def test_pinning_notes_what_was_there_before_it_writes(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "sys")
    tree.make()
    on_board.pin(request(clocks={"cpu": tree.clock()}), tmp_path)
    assert tree.state() == ("userspace", str(FAST))
    assert guard.restore(str(tmp_path)) == []
    assert tree.floats()


def test_clocks_that_may_not_be_written_are_said_with_and_without_sudo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **_: object) -> int:
        raise PermissionError

    tree = Tree(tmp_path / "sys")
    tree.make()
    monkeypatch.setattr(on_board.os, "open", refuse)
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    monkeypatch.setenv("PATH", str(bin_folder))
    for sudo in ("", "#!/bin/sh\nexit 1\n"):
        if sudo:
            (bin_folder / "sudo").write_text(sudo)
            (bin_folder / "sudo").chmod(0o755)
        with pytest.raises(board_runtime.Refused) as caught:
            on_board.pin(request(clocks={"cpu": tree.clock()}), tmp_path)
        assert caught.value.values["clocks"] == "permission"
        assert guard.restore(str(tmp_path)) == []  # nothing was changed, so nothing is to be put back


def test_throttling_is_a_pinned_clock_that_fell() -> None:
    asked = request(pin=True, clocks={"cpu": {"pin": 1000}})
    after = {"domains": {"cpu": {"frequency": 600}}, "flags": None, "cooling": {}}
    assert on_board.throttled(asked, after) is True
    after["domains"]["cpu"]["frequency"] = 1000
    assert on_board.throttled(asked, after) is False
    assert on_board.throttled(request(), {"domains": {}, "flags": None, "cooling": {}}) is None


ON_BOARDS = [
    *(Path(each.__file__) for each in (on_board, guard, board_runtime)),
    *(path for each in backends() for path in (each.on_board.runtime, *each.on_board.beside)),
]


@pytest.mark.parametrize("path", ON_BOARDS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_boards_need_nothing_but_python_and_a_runtime(path: Path) -> None:
    tree = ast.parse(path.read_text(), feature_version=(3, 7))
    names = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    beside = {
        "board_runtime",
        "runtime",
        "rknn_api",
        "edgevit",
    }  # edgevit only where the file is part of the package
    assert {name.split(".")[0] for name in names} <= STANDARD | RUNTIMES | beside


def test_guard_fits_the_line_of_an_old_adb_daemon() -> None:
    assert len(launcher()) < 3900


def test_overhead_of_the_harness_is_below_one_percent_at_ten_milliseconds(tmp_path: Path) -> None:
    found = overhead(tmp_path, runs=100)
    assert abs(found["reported"] - found["own"]) < 0.1, found
    assert found["wall"] - found["own"] < 0.1, found


def overhead(folder: Path, runs: int) -> dict[str, float]:
    """ms an inference of a runtime that takes 10: by its own clock, as reported, and wall time a run.

    The median of each: other programs' share of this machine is no cost of the harness.
    """
    own: list[float] = []
    begun: list[float] = []

    def infer(given: object) -> None:
        start = time.perf_counter()
        begun.append(start)
        while time.perf_counter() - start < 0.010:
            pass
        own.append(1000 * (time.perf_counter() - start))

    reported = on_board.timed(infer, None, request(runs=runs, warm_up=0), "overhead")
    return {
        "own": float(np.median(own)),
        "reported": float(np.median(reported)),
        "wall": float(np.median(1000 * np.diff(begun))),
    }


if __name__ == "__main__":
    print(overhead(Path(), runs=500))
