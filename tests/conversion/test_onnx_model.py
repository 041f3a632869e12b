"""An .onnx file as the model of a conversion."""

from __future__ import annotations

import warnings
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from edgevit.export.onnx_graph import unfused_attention
from tests.conversion.conftest import Project
from tests.vits import random_vit


@pytest.fixture
def graph(project: Project) -> Path:
    """The user's own export, its batch left open, in their folder."""
    module = random_vit(embed_dim=48, num_classes=3)
    path = project.folder / "net.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        export(module, path)
    return path


def export(module: nn.Module, path: Path, opset_version: int = 17) -> None:
    """As users export; early opsets have no fused attention."""
    with unfused_attention(module):
        torch.onnx.export(
            module,
            (torch.zeros(1, 3, 32, 32),),
            path,
            dynamo=False,
            opset_version=opset_version,
            input_names=["pixels"],
            output_names=["scores"],
            dynamic_axes={"pixels": {0: "batch"}, "scores": {0: "batch"}},
        )


IMAGES = ("--calibration", "images/calibration", "--validation", "images/validation")


def test_a_graph_of_an_early_opset_is_brought_up_and_its_norms_are_whole(project: Project) -> None:
    path = project.folder / "old.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        export(random_vit(embed_dim=48, num_classes=3), path, opset_version=11)
    assert "LayerNormalization" not in {node.op_type for node in onnx.load(path).graph.node}
    project.run("convert", "old.onnx", "--target", "onnx", "--precision", "float", *IMAGES)
    (artefact,) = (project.folder / "runs/old").glob("*.onnx")
    made = onnx.load(artefact)
    assert [node.op_type for node in made.graph.node].count("LayerNormalization") == 5
    assert project.manifest("runs/old")["results"][0]["accuracy"]["agreement"] == 1.0


@pytest.mark.toolchain
@pytest.mark.slow
def test_a_graph_converts_for_a_converter_that_starts_from_pytorch_too(project: Project, graph: Path) -> None:
    project.run("convert", "net.onnx", "--target", "onnx", "--target", "tflite", *IMAGES)
    manifest = project.manifest("runs/net")
    assert manifest["model"]["source"].startswith("ONNX file net.onnx, opset ")
    found = {each["target"]: each["accuracy"]["agreement"] for each in manifest["results"]}
    assert set(found) == {"onnx", "tflite"} and min(found.values()) >= 0.9


def test_lossy_steps_are_refused_for_a_graph(project: Project, graph: Path) -> None:
    done = project.run(
        "convert",
        "net.onnx",
        "--target",
        "onnx",
        "--precision",
        "float",
        "--prune-heads",
        "1",
        *IMAGES[:2],
        check=1,
    )
    assert "cannot make net.onnx smaller" in done.stderr
