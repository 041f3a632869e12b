"""A bundle for a Rockchip board, on a stand-in for the vendor's library: the program in Python and that in C++."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from edgevit.backends.rknn.on_board import ON_BOARD
from edgevit.bundling.golden import Golden, picture, suffix
from edgevit.bundling.make import CPP, header, quoted
from edgevit.bundling.one_file import one_file
from tests.bench.npu_library import answers, compiled, model, needs_compiler
from tests.bundling.test_bundling import alone

CXX = shutil.which("c++")
pytestmark = [needs_compiler, pytest.mark.skipif(CXX is None, reason="no C++ compiler (apt-get install g++)")]
SHAPE, CLASSES = (6, 20, 3), 5


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """What `make_bundle` writes, around a file that the stand-in takes."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, *SHAPE), np.uint8)
    outputs = answers(pixels, CLASSES)
    names = [f"{number}{suffix('RGB')}" for number in range(len(pixels))]
    described = {
        "file": model(tmp_path / "m.rknn", SHAPE, CLASSES).name,
        "npu_cores": 1,
        "made_with": {"rknn-toolkit2": "2.5.0"},
        "libraries": [str(compiled(tmp_path / "lib"))],
        "labels": ["none", 'a "quoted" one', "Rost \u00e4 \u4e2d", "back\\slash", "??="],
        "outputs": [{"name": "logits", "kind": "logits", "shape": [CLASSES], "classes": CLASSES}],
        "self_test": {"pictures": names, "how": "vendor simulator"},
        "input": {
            "mean": [0.5] * 3, "std": [0.5] * 3, "size": SHAPE[:2], "resize": SHAPE[:2], "channels": "RGB",
            "crop_mode": "center", "interpolation": "bicubic",
        },
    }  # fmt: skip
    (tmp_path / "model.json").write_text(json.dumps(described))
    (tmp_path / "run.py").write_text(one_file(ON_BOARD))
    (tmp_path / "golden").mkdir()
    for name, one in zip(names, pixels, strict=True):
        (tmp_path / "golden" / name).write_bytes(picture(one, "RGB"))
    np.save(tmp_path / "golden" / "outputs.npy", outputs)
    (tmp_path / "cpp").mkdir()
    for path in (*CPP, *ON_BOARD.cpp_sample):
        shutil.copy(path, tmp_path / "cpp")
    (tmp_path / "cpp" / "model.h").write_text(header(described, Golden(pixels, outputs, "vendor simulator")))
    return tmp_path


def built(bundle: Path) -> Path:
    """The sample in C++, as strictly as compilers go."""
    assert CXX is not None
    api = Path(__file__).parents[1] / "bench"
    out, library = bundle / "run", bundle / "lib" / "librknnrt.so"
    options = ["-std=c++14", "-Wall", "-Wextra", "-Werror", f"-I{api}", f'-DFOLDER="{bundle}/"']
    source = [str(bundle / "cpp" / "run.cpp"), str(library), f"-Wl,-rpath,{library.parent}"]
    subprocess.run([CXX, *options, *source, "-o", str(out)], check=True, capture_output=True)
    return out


def test_the_program_in_python_gives_the_librarys_answers(bundle: Path) -> None:
    done = alone(bundle, "--self-test")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith(
        "this device computes what it should: 3 pictures, as by the vendor"
    )


@pytest.mark.slow
def test_the_program_in_c_plus_plus_gives_the_librarys_answers(bundle: Path) -> None:
    run = built(bundle)
    done = subprocess.run([run, "--self-test"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("ok ") == 3
    one = subprocess.run([run, bundle / "golden" / "0.ppm"], capture_output=True, text=True)
    best = int(np.load(bundle / "golden" / "outputs.npy")[0].argmax())
    assert json.loads((bundle / "model.json").read_text())["labels"][best] in one.stdout
    expected = np.load(bundle / "golden" / "outputs.npy")
    np.save(bundle / "golden" / "outputs.npy", -expected)
    wrong = subprocess.run([run, "--self-test"], capture_output=True, text=True)
    assert wrong.returncode == 1
    assert "computed otherwise" in wrong.stdout
    for name, content in {
        "cut.ppm": b"P6\n20 6\n255\nabc",
        "other.ppm": b"P6\n2 2\n255\n",
        "text.ppm": b"hello",
    }.items():
        (bundle / name).write_bytes(content)
        refused = subprocess.run([run, bundle / name], capture_output=True, text=True)
        assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    (bundle / "m.rknn").write_text("RKNN newer")
    refused = subprocess.run([run, "--self-test"], capture_output=True, text=True)
    assert refused.stderr == "error: rknn_init failed with -6\n"


@pytest.mark.slow
def test_the_program_in_c_plus_plus_says_how_alike_embeddings_are(bundle: Path) -> None:
    described = json.loads((bundle / "model.json").read_text())
    described["outputs"] = [{"name": 'a "b"', "kind": "embedding", "shape": [CLASSES], "classes": None}]
    expected = np.load(bundle / "golden" / "outputs.npy")
    pixels = np.zeros((len(expected), *SHAPE), np.uint8)  # only how many there are counts
    (bundle / "cpp" / "model.h").write_text(header(described, Golden(pixels, expected, "vendor simulator")))
    run = built(bundle)
    assert subprocess.run([run, "--self-test"], capture_output=True).returncode == 0
    pictures = [bundle / "golden" / f"{number}.ppm" for number in (0, 1)]
    same, other = subprocess.run([run, *pictures], capture_output=True, text=True).stdout.splitlines()
    assert f'a "b" {CLASSES}, cosine to the first 1.000' in same
    one, two = expected[0].astype(float), expected[1].astype(float)
    cosine = one @ two / (np.linalg.norm(one) * np.linalg.norm(two))
    assert f"cosine to the first {cosine:.3f}" in other


def test_names_are_safe_inside_a_string_of_c() -> None:
    assert quoted('a"b\\c?\n\u00e4') == '"a\\042b\\134c\\077\\012\\303\\244"'
