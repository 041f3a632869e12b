"""The runner for boards without Python: built as people build it, run on the stand-in library."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from edgevit.bench import native_runner
from edgevit.bench.host import HostTransport
from edgevit.bench.transport import TransportError
from edgevit.cli.boards import command as boards
from edgevit.errors import InputError
from edgevit.progress import QUIET
from tests.bench.made_run import CLASSES, IMAGES, SIZE, make_run
from tests.bench.npu_library import answers, compiled, model, needs_compiler
from tests.bench.ssh_server import needs_sshd
from tests.bench.test_measure import QUICK, add_board, bench, server  # noqa: F401 - a fixture

pytestmark = needs_compiler
SHAPE = (6, 20, 3)


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Written by `edgevit boards runner`, built by cmake where there is one."""
    folder = tmp_path_factory.mktemp("runner")
    answer = CliRunner().invoke(boards, ["runner", "--out", str(folder)])
    assert answer.exit_code == 0, answer.output
    header = Path(__file__).parent
    if shutil.which("cmake"):
        commands = [["cmake", "-B", "build", f"-DRKNN_API_DIR={header}"], ["cmake", "--build", "build"]]
    else:
        (folder / "build").mkdir()
        source = ["-std=c99", "edgevit_runner.c", "-o", "build/edgevit_runner", "-lm", "-ldl"]
        commands = [["cc", "-Wall", "-Werror", f"-I{header}", *source]]
    for command in commands:
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder / "build" / "edgevit_runner"


def measure(runner: Path, folder: Path, library: Path, words: str = "", **values: Any) -> dict[str, Any]:
    """What the runner says of three images; its outputs are in `folder`."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, *SHAPE), np.uint8)
    np.save(folder / "pixels.npy", pixels)
    files = {
        "model.rknn": model(folder / "m.rknn", SHAPE, CLASSES, words),
        "pixels.npy": folder / "pixels.npy",
    }
    usual = {"runs": 5, "seconds": 0.0, "warm_up": 1, "npu_cores": 1, "libraries": [str(library)]}
    request = {"title": "m.rknn", "artefact": "model.rknn", "pixels": "pixels.npy", **usual, **values}
    return native_runner.measure(
        HostTransport(), runner, files, request, folder, QUIET, work_folder=str(folder / "it's"), limit_s=60
    )


def test_it_says_what_the_python_runner_says(runner: Path, tmp_path: Path) -> None:
    found = measure(runner, tmp_path, compiled(tmp_path / "lib"))
    pixels = np.load(tmp_path / "pixels.npy")
    np.testing.assert_allclose(np.load(tmp_path / "outputs.npy"), answers(pixels, CLASSES), rtol=1e-5)
    from tests.bench.test_on_board import request, run, write_stand_in

    said, _ = run(tmp_path / "python", write_stand_in(tmp_path / "stand_in", ms=1), request())
    python = said["result"]
    assert found.keys() == python.keys() | {"images"}
    for key in ("machine", "latency"):
        assert found[key].keys() == python[key].keys()
    assert found["latency"]["threads"]["1"].keys() == python["latency"]["threads"]["1"].keys()
    assert found["latency"]["threads"]["1"]["n"] == 5
    assert found["images"] == 3
    assert not list((tmp_path / "it's").iterdir())


def test_cores_are_tried_in_turn(runner: Path, tmp_path: Path) -> None:
    found = measure(runner, tmp_path, compiled(tmp_path / "lib"), npu_cores=3)
    assert list(found["core_masks"]) == ["0", "0_1", "0_1_2"]


def test_the_smallest_chips_integers_become_real_numbers(runner: Path, tmp_path: Path) -> None:
    measure(runner, tmp_path, compiled(tmp_path / "lib", mini=True))
    flat = np.load(tmp_path / "pixels.npy").reshape(3, -1)
    sums = np.stack([flat[:, each::CLASSES].sum(1, dtype=np.uint32) for each in range(CLASSES)], axis=1)
    np.testing.assert_allclose(np.load(tmp_path / "outputs.npy"), (sums % 100) * 0.5)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("newer", "rknn_init: it does not take the model: the file is damaged, or made by a newer toolkit"),
        ("busy", "rknn_init: the NPU is not available: no driver, or another program holds it (code -3)"),
        ("other-chip", "rknn_init: the model is made for another chip (code -13)"),
        ("no-memory", "rknn_create_mem: out of memory (576 bytes)"),
        ("fails", "rknn_run: it failed (code -1)"),
    ],
)
def test_refusals_are_in_words_and_leave_nothing(runner: Path, tmp_path: Path, words: str, why: str) -> None:
    with pytest.raises(TransportError) as caught:
        measure(runner, tmp_path, compiled(tmp_path / "lib"), words)
    assert why in str(caught.value)
    assert str(caught.value).startswith("cannot measure on host: ")
    assert not list((tmp_path / "it's").iterdir())


def test_images_of_another_size_and_no_library_are_in_words(runner: Path, tmp_path: Path) -> None:
    library = compiled(tmp_path / "lib")
    np.save(tmp_path / "odd.npy", np.zeros((1, 5, 5, 3), np.uint8))
    words = [
        str(model(tmp_path / "m.rknn", SHAPE, CLASSES)),
        str(tmp_path / "odd.npy"),
        "o.npy",
        "1",
        "0",
        "0",
        "1",
    ]
    done = subprocess.run([runner, *words, library], capture_output=True, text=True)
    assert "does not hold images of 360 bytes" in json.loads(done.stdout)["error"]["why"]
    done = subprocess.run([runner, *words, tmp_path / "no.so"], capture_output=True, text=True)
    assert (
        "there is no runtime library for the NPU that can be used" in json.loads(done.stdout)["error"]["why"]
    )


def test_sources_that_are_there_are_not_overwritten(tmp_path: Path) -> None:
    native_runner.write_sources(tmp_path / "new")
    with pytest.raises(InputError, match="the file is there already"):
        native_runner.write_sources(tmp_path / "new")


@pytest.mark.ssh
@needs_sshd
def test_bench_takes_it_where_there_is_no_python(runner: Path, server: Any, tmp_path: Path) -> None:  # noqa: F811
    run = make_run(tmp_path / "run")
    model(run / "m-npu-int8.rknn", (SIZE, SIZE, 3), CLASSES)
    pixels = np.load(run / "stages" / "validation" / "pixels.npy")
    np.save(run / "stages" / "npu-int8" / "outputs.npy", answers(pixels, CLASSES))
    (tmp_path / "work").mkdir()
    add_board(
        "desk",
        address=server.address,
        work_folder=str(tmp_path / "work"),
        npu_library=str(compiled(tmp_path / "lib")),
        python="python-that-is-not-there",
    )
    result = bench(run, "--board", "desk", "--target", "npu", "--runner", runner, "--json", *QUICK)
    (record,) = json.loads(result.stdout)
    assert record["same_as_local"]["n"] == record["same_as_local"]["agree"] == IMAGES
    assert record["how"].startswith("measured on ")
    assert [layer["us"] for layer in record["layers"]] == [4, 52, 9]
    assert (run / "bench").is_dir()
    assert not list((tmp_path / "work").iterdir())
    refused = bench(run, "--board", "desk", "--target", "onnx", "--runner", runner, *QUICK)
    assert "with --runner: it runs .rknn only" in str(refused.exception)
