"""Rockchip's library through ctypes, on a stand-in compiled from C with the real structures."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import numpy as np
import pytest

from edgevit.backends.rknn import rknn_api
from edgevit.backends.rknn.layer_times import read_layer_times
from edgevit.backends.rknn.rknn_api import RknnError, Session
from tests.bench.npu_library import answers, compiled, model, needs_compiler

SHAPE, CLASSES = (6, 20, 3), 7  # a width that the stand-in's rows of 16 don't divide
# Sizes and offsets that a C compiler gives rknn_api.h of librknnrt 2.3.2 on a 64-bit machine.
LAYOUTS = {
    rknn_api.InOutNum: (8, {"n_output": 4}),
    rknn_api.TensorAttr: (
        376,
        {
            **{"n_dims": 4, "dims": 8, "name": 72, "n_elems": 328, "size": 332, "fmt": 336, "type": 340},
            **{"qnt_type": 344, "fl": 348, "zp": 352, "scale": 356, "w_stride": 360},
            **{"size_with_stride": 364, "pass_through": 368, "h_stride": 372},
        },
    ),
    rknn_api.SdkVersion: (512, {"drv_version": 256}),
    rknn_api.PerfDetail: (16, {"data_len": 8}),
    rknn_api.TensorMem: (
        40,
        {"phys_addr": 8, "fd": 16, "offset": 20, "size": 24, "flags": 28, "priv_data": 32},
    ),
}


@pytest.mark.parametrize("structure", LAYOUTS, ids=lambda each: each.__name__)
def test_structures_lie_as_in_the_vendors_header(structure: type[ctypes.Structure]) -> None:
    size, offsets = LAYOUTS[structure]
    assert ctypes.sizeof(structure) == size
    assert {name: getattr(structure, name).offset for name in offsets} == offsets


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> object:
    return rknn_api.load([str(compiled(tmp_path_factory.mktemp("npu")))])


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, *SHAPE), np.uint8)


@needs_compiler
def test_images_arrive_row_by_row_and_answers_come_back(
    library: object, tmp_path: Path, pixels: np.ndarray
) -> None:
    session = Session(library, str(model(tmp_path / "m.rknn", SHAPE, CLASSES)), None)
    assert (session.height, session.width, session.channels) == SHAPE
    assert session.stride == 32
    found = np.stack([session.run(image) for image in pixels])
    np.testing.assert_allclose(found, answers(pixels, CLASSES), rtol=1e-5)
    assert session.versions() == ("2.5.0 (stand-in)", "0.9.8")
    session.close()


@needs_compiler
@pytest.mark.parametrize(("cores", "mask"), [("0", 1), ("0_1", 3), ("0_1_2", 7)])
def test_cores_are_those_of_the_vendors_masks(
    library: object, tmp_path: Path, pixels: np.ndarray, cores: str, mask: int
) -> None:
    session = Session(library, str(model(tmp_path / "m.rknn", SHAPE, CLASSES)), cores)
    np.testing.assert_allclose(session.run(pixels[0]), answers(pixels[:1], CLASSES, mask)[0], rtol=1e-5)
    session.close()


@needs_compiler
def test_a_second_context_shares_the_first_ones_weights(
    library: object, tmp_path: Path, pixels: np.ndarray
) -> None:
    loaded = ctypes.c_int.in_dll(library, "loaded")  # type: ignore[arg-type]
    before = loaded.value
    first = Session(library, str(model(tmp_path / "m.rknn", SHAPE, CLASSES)), "0")
    second = Session(library, "", "1", like=first)
    assert loaded.value == before + 1
    for session, mask in ((first, 1), (second, 2)):
        np.testing.assert_allclose(session.run(pixels[0]), answers(pixels[:1], CLASSES, mask)[0], rtol=1e-5)
    second.close()
    first.close()


@needs_compiler
@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("newer", "rknn_init: it does not take the model: the file is damaged, or made by a newer toolkit"),
        ("busy", "rknn_init: the NPU is not available: no driver, or another program holds it (code -3)"),
        ("other-chip", "rknn_init: the model is made for another chip (code -13)"),
        ("no-memory", "rknn_create_mem: out of memory (640 bytes)".replace("640", str(6 * 32 * 3))),
    ],
)
def test_refusals_are_in_words(library: object, tmp_path: Path, words: str, line: str) -> None:
    with pytest.raises(RknnError) as caught:
        Session(library, str(model(tmp_path / "m.rknn", SHAPE, CLASSES, words)), None)
    assert str(caught.value).startswith(line)


@needs_compiler
def test_a_file_without_the_magic_and_a_run_that_fails_are_in_words(
    library: object, tmp_path: Path, pixels: np.ndarray
) -> None:
    (tmp_path / "no.rknn").write_bytes(b"PK\x03\x04")
    with pytest.raises(RknnError, match="rknn_init: it does not take the model"):
        Session(library, str(tmp_path / "no.rknn"), None)
    session = Session(library, str(model(tmp_path / "m.rknn", SHAPE, CLASSES, "fails")), None)
    with pytest.raises(RknnError, match=r"rknn_run: it failed \(code -1\)"):
        session.run(pixels[0])
    session.close()


@needs_compiler
def test_layers_times_are_read_from_the_librarys_table(
    library: object, tmp_path: Path, pixels: np.ndarray
) -> None:
    file = str(model(tmp_path / "m.rknn", SHAPE, CLASSES))
    session = Session(library, file, None, rknn_api.COLLECT_PERF)
    session.run(pixels[0])
    rows = read_layer_times(session.layer_times())
    session.close()
    assert [(row["op"], row["target"], row["us"], row["cycles"], row["name"]) for row in rows] == [
        ("InputOperator", "CPU", 4, 0, "images"),
        ("Conv", "NPU", 52, 300, "/patch embed/Conv"),
        ("OutputOperator", "CPU", 9, 0, ""),
    ]
    assert read_layer_times("nothing of the kind\n1 2 3") == []


def test_no_library_names_where_it_was_looked_for() -> None:
    with pytest.raises(RknnError, match=r"^there is no librknnrt.so in /nowhere, /else$"):
        rknn_api.load(["/nowhere/librknnrt.so", "/nowhere/librknnmrt.so", "/else/librknnrt.so"])


@needs_compiler
def test_a_library_that_is_no_such_library_is_named(tmp_path: Path) -> None:
    damaged, other = tmp_path / "librknnrt.so", tmp_path / "other.so"
    damaged.write_bytes(b"\x7fELF damaged")
    with pytest.raises(
        RknnError, match=r"librknnrt.so can't be used \(.*(file too short|invalid ELF|header)"
    ):
        rknn_api.load([str(damaged)])
    subprocess.run(["cc", "-shared", "-x", "c", "-o", other, "-"], input=b"int nothing;", check=True)
    with pytest.raises(RknnError, match="can't be used .*rknn_init"):
        rknn_api.load([str(other)])
