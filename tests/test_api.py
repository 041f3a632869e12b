"""The library's face: what `import edgevit` gives, on real models, without a vendor's toolchain."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import edgevit
from edgevit.progress import QUIET
from tests.images.pictures import class_folders

DOCS = Path(__file__).parents[1] / "docs"


def net(classes: int = 4) -> torch.nn.Module:
    torch.manual_seed(0)
    pooled = (torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, classes))
    return torch.nn.Sequential(torch.nn.Conv2d(3, 8, 8, stride=8), torch.nn.GELU(), *pooled)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return class_folders(tmp_path / "val", 8)


def test_every_name_is_there_and_no_other_is_promised() -> None:
    for name in edgevit.__all__:
        assert getattr(edgevit, name) is not None
    assert set(edgevit.__all__) <= set(dir(edgevit))
    tree = ast.parse(Path(edgevit.__file__).read_text(encoding="utf-8"))
    imported = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "edgevit.api"
        for alias in node.names
    }
    assert imported == set(edgevit.__all__), "what type checkers see is what there is"
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = edgevit.nonsense


def test_importing_edgevit_imports_no_torch() -> None:
    script = "import sys, edgevit; print('torch' in sys.modules, 'pydantic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.slow
def test_names_stay_functions_after_everything_was_imported() -> None:
    script = (
        "import pkgutil, importlib, edgevit\n"
        "for name in ('api', 'cli.group', 'conversion.pipeline', 'bench.choose', 'prediction.predict'):\n"
        "    importlib.import_module('edgevit.' + name)\n"
        "print(all(callable(getattr(edgevit, name)) for name in edgevit.__all__))"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "True"


def test_a_live_module_is_converted_in_a_few_lines(tmp_path: Path, images: Path) -> None:
    model = edgevit.wrap(net(), size=32, name="mine")
    run = edgevit.convert(
        model, "onnx", precisions="float", validation=images, out=tmp_path / "run", progress=QUIET
    )
    result = run["onnx", "float"]
    assert run.path_of(result).is_file()
    assert result.accuracy is not None and result.accuracy.agreement == 1.0
    assert (result.preprocessing.size, result.target, result.title) == ((32, 32), "onnx", "onnx float")
    assert edgevit.open(tmp_path / "run").results == run.results
    assert "<td>onnx</td>" in run._repr_html_()
    guesses = edgevit.predict(run, images / "class0" / "0.png", top=2, progress=QUIET)
    assert len(guesses[0].guesses) == 2
    assert edgevit.report(run).read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_module_with_other_weights_is_another_model(tmp_path: Path, images: Path) -> None:
    def outputs(value: float) -> float:
        module = net()
        torch.nn.init.constant_(module[-1].weight, value)  # type: ignore[index]
        run = edgevit.convert(
            edgevit.wrap(module, size=32, name="mine"),
            "onnx",
            precisions="float",
            validation=images,
            out=tmp_path / "run",
            progress=QUIET,
        )
        return float(np.load(run.path(run.manifest.stage("float"), "outputs.npy"))[0, 0])

    assert outputs(1.0) != outputs(2.0)


def test_one_target_that_fails_leaves_the_others(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEVIT_TOOLCHAINS", str(tmp_path / "none"))
    with pytest.raises(
        edgevit.EdgevitError, match=r"^tflite float: .*1 of 2 artefacts failed, onnx float made"
    ):
        edgevit.convert(
            edgevit.wrap(net(), size=32, name="mine"),
            ["tflite", "onnx"],
            precisions="float",
            validation=images,
            out=tmp_path / "run",
            progress=QUIET,
        )
    run = edgevit.open(tmp_path / "run")
    assert [each.title for each in run.results] == ["onnx float"]
    assert [each.title for each in run.manifest.failures] == ["tflite float"]


def test_every_step_is_in_the_manifest_and_the_second_run_makes_none(tmp_path: Path, images: Path) -> None:
    def convert(out: str) -> edgevit.Run:
        model = edgevit.wrap(net(), size=32, name="mine")
        return edgevit.convert(
            model, "onnx", precisions="float", validation=images, out=tmp_path / out, progress=QUIET
        )

    first, second = convert("a"), convert("b")
    names = [step.stage for step in first.manifest.stages]
    assert names == [
        "model",
        "validation",
        "float",
        "preprocessing",
        "export",
        "onnx-float",
        "evaluate-onnx-float",
    ]
    assert not any(step.cached for step in first.manifest.stages)
    assert [step.stage for step in second.manifest.stages] == names
    assert all(step.cached for step in second.manifest.stages)
    for step in first.manifest.stages:
        assert (first.folder / "stages" / step.folder / "step.json").is_file()


def test_what_a_classifier_reads_is_converted_as_an_embedding(tmp_path: Path, images: Path) -> None:
    model = edgevit.wrap(net(), size=32, name="net")
    run = edgevit.convert(
        model,
        "onnx",
        validation=images,
        precisions="float",
        outputs="embedding",
        out=tmp_path / "run",
        progress=QUIET,
    )
    accuracy = run["onnx", "float"].accuracy
    assert accuracy is not None and accuracy.kind == "embedding" and accuracy.cosine > 0.999
    first, *_ = edgevit.predict(run, sorted(images.rglob("*.png"))[:2], progress=QUIET)
    assert first.guesses == () and first.outputs[0].startswith("embedding: embedding, 8; most like picture 2")


def test_a_damaged_run_and_an_unknown_board_are_errors_with_a_line(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{", encoding="utf-8")
    with pytest.raises(edgevit.EdgevitError, match="manifest.json is not JSON"):
        edgevit.open(tmp_path)
    with pytest.raises(edgevit.EdgevitError, match="Did you mean rk3588"):
        edgevit.board("rk3558")
    assert "rk3588" in edgevit.boards()


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cells = json.loads((DOCS / "library.ipynb").read_text(encoding="utf-8"))["cells"]
    names: dict[str, object] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), "library.ipynb", "exec"), names)
    assert (tmp_path / "compare.html").is_file()
    assert (tmp_path / "runs" / "tiny" / "manifest.json").is_file()


def test_pictures_become_a_model_and_a_bundle_in_three_calls(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "import torch\n"
        "def build():\n"
        "    torch.manual_seed(0)\n"
        "    pooled = (torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 9))\n"
        "    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 8, stride=8), torch.nn.GELU(), *pooled)\n"
        "    net.preprocessing = {'size': (32, 32)}\n"
        "    return net\n"
    )
    train, other = class_folders(tmp_path / "train", 24), class_folders(tmp_path / "other", 8, seed=1)
    model = f"{tmp_path / 'net.py'}:build"
    found = edgevit.finetune(
        model, str(train), out=str(tmp_path / "mine"), validation=str(other), progress=QUIET
    )
    assert found.names == ("class0", "class1", "class2", "class3")
    run = edgevit.convert(
        str(found.folder), "onnx", precisions="float", validation=other, out=tmp_path / "run", progress=QUIET
    )
    assert run.results[0].accuracy.agreement == 1.0
    path = edgevit.bundle(run, str(tmp_path / "device.zip"))
    assert path.stat().st_size > 1000
