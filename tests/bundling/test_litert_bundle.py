"""A bundle for LiteRT: the program in C++ on the real library, the class in Kotlin through the compiler."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from edgevit.backends.litert.on_board import ON_BOARD
from edgevit.toolchains import environment
from tests.conversion.conftest import Project, make_project

HERE = Path(__file__).parent
CXX, KOTLIN = shutil.which("c++"), shutil.which("kotlinc")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A user's folder with a tiny model's float .tflite, its int8 one and one of integers only."""
    if environment.state("litert").problem:
        pytest.skip("edgevit toolchain install litert")
    user = make_project(tmp_path_factory.mktemp("user"))
    user.convert("--target", "tflite", "--precision", "float", "--precision", "int8")
    user.convert("--target", "tflite", "--delegate", "npu", "--out", "runs/integers")
    return user


def bundled(project: Project, run: str, precision: str, out: Path) -> Path:
    project.run("bundle", run, "--precision", precision, "--out", str(out))
    return out


def built(bundle: Path) -> Path:
    """The sample in C++, as strictly as compilers go, with the library of LiteRT's own package."""
    assert CXX is not None
    python = Path(environment.python_of("litert"))
    (library,) = python.parents[1].glob("lib/python*/site-packages/ai_edge_litert/libLiteRt.so")
    options = ["-std=c++14", "-Wall", "-Wextra", "-Werror", f"-I{HERE}", f'-DFOLDER="{bundle}/"']
    source = [str(bundle / "cpp" / "run.cpp"), str(library), f"-Wl,-rpath,{library.parent}"]
    subprocess.run([CXX, *options, *source, "-o", str(bundle / "run")], check=True, capture_output=True)
    return bundle / "run"


@pytest.mark.toolchain
@pytest.mark.slow
@pytest.mark.skipif(CXX is None, reason="no C++ compiler (apt-get install g++)")
@pytest.mark.parametrize(
    ("run", "precision"), [("runs/model", "float"), ("runs/model", "int8"), ("runs/integers", "int8")]
)
def test_the_program_in_c_plus_plus_gives_the_self_tests_answers(
    project: Project, tmp_path: Path, run: str, precision: str
) -> None:
    bundle = bundled(project, run, precision, tmp_path / "bundle")
    program = built(bundle)
    done = subprocess.run([program, "--self-test"], capture_output=True, text=True)
    assert (done.returncode, done.stdout.count("ok ")) == (0, 8), done.stdout + done.stderr
    one = subprocess.run([program, bundle / "golden" / "0.ppm"], capture_output=True, text=True)
    best = int(np.load(bundle / "golden" / "outputs.npy")[0].argmax())
    assert f"class{best} " in one.stdout
    (bundle / f"model-tflite-{precision}.tflite").write_bytes(b"nothing")
    refused = subprocess.run([program, "--self-test"], capture_output=True, text=True)
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1].startswith("error: loading the model failed with ")


@pytest.mark.toolchain
@pytest.mark.slow
@pytest.mark.skipif(CXX is None, reason="no C++ compiler (apt-get install g++)")
def test_the_program_in_c_plus_plus_takes_a_model_that_gives_no_classes(
    project: Project, tmp_path: Path
) -> None:
    project.convert("--target", "tflite", "--output", "embedding", "--out", "runs/embedding")
    bundle = bundled(project, "runs/embedding", "int8", tmp_path / "bundle")
    program = built(bundle)
    done = subprocess.run([program, "--self-test"], capture_output=True, text=True)
    assert (done.returncode, done.stdout.count("ok ")) == (0, 8), done.stdout + done.stderr
    one = subprocess.run([program, bundle / "golden" / "0.ppm"], capture_output=True, text=True)
    assert "embedding 32, cosine to the first 1.000" in one.stdout
    assert not (bundle / "android").exists()  # the class shows classes


@pytest.mark.toolchain
@pytest.mark.slow
def test_the_file_itself_says_what_it_takes_and_gives(project: Project, tmp_path: Path) -> None:
    bundle = bundled(project, "runs/model", "int8", tmp_path / "bundle")
    content = (bundle / "model-tflite-int8.tflite").read_bytes()
    start = content.index(b'{"made_by":"edgevit"')
    told, _ = json.JSONDecoder().raw_decode(content[start : start + 2000].decode("ascii", errors="ignore"))
    assert told["input"]["size"] == [32, 32]
    assert told["outputs"] == [{"name": "logits", "kind": "logits"}]
    assert told["labels"] == ["class0", "class1", "class2"]
    oldest = json.loads((bundle / "model.json").read_text())["needs_at_least"]
    assert list(oldest) == ["TensorFlow Lite"]
    integers = bundled(project, "runs/integers", "int8", tmp_path / "integers")
    assert json.loads((integers / "model.json").read_text())["input"]["type"] in ("int8", "int16")
    assert (bundle / "android" / "Classifier.kt").is_file()
    assert not (integers / "android").exists()  # the class gives real numbers


@pytest.mark.slow
@pytest.mark.skipif(KOTLIN is None, reason="no Kotlin compiler (apt-get install kotlin)")
def test_the_class_in_kotlin_compiles(tmp_path: Path) -> None:
    assert KOTLIN is not None
    sources = [*sorted(map(str, (HERE / "android").glob("*.kt"))), *map(str, ON_BOARD.android_sample)]
    done = subprocess.run([KOTLIN, "-Werror", *sources, "-d", tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "Classifier.class").is_file()
