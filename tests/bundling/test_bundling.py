"""A bundle runs where edgevit is not, tells whether a device computes what it should, and is reproducible."""

from __future__ import annotations

import ast
import hashlib
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edgevit.backends.registry import backends
from edgevit.bundling import program
from edgevit.bundling.card import plain
from edgevit.bundling.one_file import one_file
from edgevit.images.pixels import pixels_of
from edgevit.images.preprocessing import Preprocessing
from edgevit.targets.facts import version
from tests.conversion.conftest import Project, make_project

# The program must not need anything of edgevit's.
ALONE = """
import runpy, sys
class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("edgevit", "torch", "timm"):
            raise ImportError(f"{name} is not on the device")
sys.meta_path.insert(0, Nothing())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def alone(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a bundle's program as on a device."""
    line = [sys.executable, "-c", ALONE, str(folder / "run.py"), *arguments]
    return subprocess.run(line, capture_output=True, text=True, timeout=120, cwd=folder)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder with a run of a tiny model, and the bundle of its int8 artefact."""
    user = make_project(tmp_path_factory.mktemp("user"))
    user.convert("--precision", "float", "--precision", "int8")
    user.run("bundle", "runs/model", "--precision", "int8", "--out", "bundle")
    return user.folder


@pytest.fixture
def project(made: Path) -> Project:
    return Project(made)


@pytest.fixture
def bundled(made: Path, tmp_path: Path) -> Path:
    """A copy of the bundle, to do with what one likes."""
    return Path(shutil.copytree(made / "bundle", tmp_path / "bundle"))


def test_it_has_all_that_a_device_needs(bundled: Path) -> None:
    assert sorted(path.name for path in bundled.iterdir()) == [
        "README.md", "README.zh.md", "SHA256SUMS", "golden", "labels.txt", "model-onnx-int8.onnx", "model.json",
        "run.py"
    ]  # fmt: skip
    described = json.loads((bundled / "model.json").read_text(encoding="utf-8"))
    assert described["labels"] == ["class0", "class1", "class2"]
    assert (described["input"]["layout"], described["input"]["type"]) == ("NCHW", "float32")
    for line in (bundled / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((bundled / name).read_bytes()).hexdigest() == digest


def test_the_model_says_itself_what_it_takes_and_what_must_run_it(bundled: Path) -> None:
    session = onnxruntime.InferenceSession(bundled / "model-onnx-int8.onnx")
    told = json.loads(session.get_modelmeta().custom_metadata_map["edgevit"])
    assert told["input"]["size"] == [32, 32]
    assert told["outputs"] == [{"name": "logits", "kind": "logits"}]
    described = json.loads((bundled / "model.json").read_text(encoding="utf-8"))
    assert told["labels"] == described["labels"]
    assert version(described["needs_at_least"]["onnxruntime"]) <= version(onnxruntime.__version__)


def test_the_self_test_passes_where_the_model_computes_the_same(bundled: Path) -> None:
    done = alone(bundled, "--self-test")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("ok    ") == 8
    assert (
        done.stdout.splitlines()[-1] == "this device computes what it should: 8 pictures, as by the host CPU"
    )


def test_the_self_test_names_the_pictures_that_a_device_gets_wrong(bundled: Path) -> None:
    expected = np.load(bundled / "golden" / "outputs.npy")
    expected[3] = np.roll(expected[3], 1)
    np.save(bundled / "golden" / "outputs.npy", expected)
    done = alone(bundled, "--self-test")
    assert done.returncode == 1
    assert [line[:11] for line in done.stdout.splitlines() if line.startswith("FAIL")] == ["FAIL  3.ppm"]


def test_it_says_the_same_as_edgevit(bundled: Path, project: Project) -> None:
    pictures = sorted((project.folder / "images" / "validation").rglob("*.png"))
    done = alone(bundled, "--json", "--top", "1", str(project.folder / "images" / "validation"))
    mine = [json.loads(line) for line in done.stdout.splitlines()]
    assert [each["picture"] for each in mine] == [str(path) for path in pictures]
    options = ("--model", "runs/model", "--target", "onnx", "--precision", "int8", "--top", "1", "--json")
    theirs = json.loads(project.run("predict", *map(str, pictures), *options).stdout)["images"]
    assert [each["classes"][0][0] for each in mine] == [each["guesses"][0]["name"] for each in theirs]


def test_pictures_that_cannot_be_read_are_said_and_the_others_are_classified(bundled: Path) -> None:
    (bundled / "bad.jpg").write_bytes(b"nothing")
    done = alone(bundled, "bad.jpg", "golden/0.ppm", "gone.png")
    assert done.returncode == 1
    assert [line.partition(":")[0] for line in done.stdout.splitlines()] == [
        "bad.jpg",
        "golden/0.ppm",
        "gone.png",
    ]


@pytest.mark.parametrize(
    ("remove", "arguments", "line"),
    [
        ("model-onnx-int8.onnx", ("--self-test",), "error: no such file "),
        ("model.json", ("--self-test",), "error: "),
        (None, ("--video", "gone.mp4"), "error: c"),
    ],
)
def test_what_is_missing_is_one_line(
    bundled: Path, remove: str | None, arguments: tuple[str, ...], line: str
) -> None:
    if remove:
        (bundled / remove).unlink()
    done = alone(bundled, *arguments)
    assert done.returncode == 1
    assert done.stderr.startswith(line)
    assert done.stderr.count("\n") == 1


def test_the_same_run_gives_the_same_bytes(bundled: Path, project: Project) -> None:
    names = []
    for number in (1, 2):
        project.run("bundle", "runs/model", "--precision", "int8", "--out", f"{number}/model.zip")
        names.append(project.folder / f"{number}" / "model.zip")
    assert names[0].read_bytes() == names[1].read_bytes()
    with zipfile.ZipFile(names[0]) as archive:
        inside = {name.removeprefix("model/"): archive.read(name) for name in archive.namelist()}
    assert inside["run.py"] == (bundled / "run.py").read_bytes()
    assert set(inside) == {str(path.relative_to(bundled)) for path in bundled.rglob("*") if path.is_file()}


def test_wrong_requests_are_one_line_and_nothing_is_overwritten(bundled: Path, project: Project) -> None:
    several = project.run("bundle", "runs/model", check=1).stderr
    assert several == (
        "error: cannot bundle runs/model: several artefacts fit. "
        "Say --target and --precision: it made onnx float, onnx int8.\n"
    )
    assert (
        "it made no such artefact"
        in project.run("bundle", "runs/model", "--target", "tflite", check=1).stderr
    )
    assert "no such folder" in project.run("bundle", "nowhere", check=1).stderr
    mine = project.folder / "mine"
    mine.mkdir()
    (mine / "precious.txt").write_text("mine")
    said = project.run("bundle", "runs/model", "--precision", "int8", "--out", "mine", check=1).stderr
    assert said == "error: cannot write mine: something else is there. Choose another --out.\n"
    assert [path.name for path in mine.iterdir()] == ["precious.txt"]


def test_both_cards_have_the_same_headings_commands_and_figures(bundled: Path) -> None:
    cards = [(bundled / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh.md")]
    for pick in (lambda line: line.startswith("python "), lambda line: line.startswith("- `")):
        found = [
            [line.partition(":")[0].partition(":")[0] for line in card.splitlines() if pick(line)]
            for card in cards
        ]
        assert found[0] == found[1]
    assert [card.count("\n## ") for card in cards] == [5, 5]
    assert all("{{" not in card and "{%" not in card for card in cards)


def test_a_hostile_name_is_plain_text_in_a_card() -> None:
    assert plain("<img src=x>\n# big `code`") == r"\<img src=x\> \# big \`code\`"


@pytest.mark.parametrize("name", [backend.name for backend in backends()])
def test_the_program_is_one_file_of_python_3_7_for_every_backend(name: str) -> None:
    (backend,) = [each for each in backends() if each.name == name]
    source = one_file(backend.on_board)
    tree = ast.parse(source, feature_version=(3, 7))
    modules = {
        (node.module or "") if isinstance(node, ast.ImportFrom) else node.names[0].name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert not any(
        module.split(".")[0] in ("edgevit", "board_runtime", "rknn_api", "runtime") for module in modules
    )
    assert not [line for line in source.splitlines() if re.match(r"\w+ = (dict|list|tuple|set)\[", line)]
    compile(source, "run.py", "exec")


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(5, 90),
    height=st.integers(5, 90),
    size=st.tuples(st.integers(8, 40), st.integers(8, 40)),
    square=st.booleans(),
    crop_pct=st.sampled_from([0.8, 0.875, 1.0]),
    crop_mode=st.sampled_from(["center", "squash", "border"]),
    interpolation=st.sampled_from(["bicubic", "bilinear", "nearest", "lanczos"]),
    channels=st.sampled_from(["RGB", "BGR", "L"]),
)
def test_pictures_are_prepared_as_edgevit_does(
    tmp_path_factory: pytest.TempPathFactory, width: int, height: int, square: bool, **values: Any
) -> None:
    size = (values["size"][0],) * 2 if square else values["size"]
    count = 1 if values["channels"] == "L" else 3
    own = Preprocessing(**{**values, "size": size}, mean=(0.2, 0.4, 0.6)[:count], std=(0.5,) * count)
    path = tmp_path_factory.mktemp("fit") / "picture.png"
    random = np.random.default_rng(width * 100 + height)
    Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
    wanted = {**own.to_json(), "resize": own.resized_size}
    assert np.array_equal(program.fitted(program.read(str(path)), wanted), pixels_of(path, own))


@pytest.fixture(scope="module")
def embedding(made: Path) -> Path:
    """The bundle of the same model as an embedding, without its classifier."""
    user = Project(made)
    user.convert("--output", "embedding", "--precision", "float", "--out", "runs/embedding")
    user.run("bundle", "runs/embedding", "--out", "embedding-bundle")
    return user.folder / "embedding-bundle"


@pytest.mark.slow
def test_an_embedding_finds_pictures_that_are_alike(
    embedding: Path, project: Project, tmp_path: Path
) -> None:
    assert alone(embedding, "--self-test").returncode == 0
    assert not list(embedding.glob("labels.txt"))
    pictures = sorted((project.folder / "images" / "validation").rglob("*.png"))
    known = str(tmp_path / "known")
    assert alone(embedding, str(project.folder / "images/validation"), "--save", known).returncode == 0
    assert np.load(tmp_path / "known/embedding.npy").shape == (len(pictures), 32)
    done = alone(embedding, str(pictures[3]), "--like", known, "--json")
    (first, *_) = json.loads(done.stdout)["like"]
    assert first[0] == str(pictures[3]) and first[1] == pytest.approx(1.0, abs=1e-5)
    assert "cosine 1.000" in alone(embedding, str(pictures[3]), "--like", known).stdout
    assert "embedding 32" in alone(embedding, str(pictures[3])).stdout
    project.run("predict", *map(str, pictures), "--model", "runs/embedding", "--save", str(tmp_path / "own"))
    assert alone(embedding, str(pictures[3]), "--like", str(tmp_path / "own")).returncode == 0
    np.testing.assert_allclose(
        np.load(tmp_path / "known/embedding.npy"), np.load(tmp_path / "own/embedding.npy"), atol=1e-4
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--save", "golden"), "error: golden is there and not empty"),
        (("--like", "nowhere"), "error: nowhere holds nothing that --save of this program wrote"),
        (("--like", "golden"), "error: golden holds nothing that --save of this program wrote"),
    ],
)
def test_wrong_folders_of_pictures_are_one_line(
    embedding: Path, arguments: tuple[str, ...], line: str
) -> None:
    done = alone(embedding, "golden/0.ppm", *arguments)
    assert done.returncode == 1 and done.stderr.startswith(line) and "Traceback" not in done.stderr


@pytest.mark.slow
def test_pictures_of_another_model_are_refused(embedding: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "embedding.npy", np.zeros((1, 31), np.float32))
    (tmp_path / "pictures.json").write_text('["a.png"]')
    done = alone(embedding, "golden/0.ppm", "--like", str(tmp_path))
    assert done.stderr == f"error: {tmp_path} was saved by another model\n"


def test_a_classifier_compares_no_pictures(bundled: Path) -> None:
    said = alone(bundled, "golden/0.ppm", "--like", ".").stderr
    assert said == "error: --like compares embeddings, and this model gives logits\n"
