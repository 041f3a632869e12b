"""An .onnx file as the model of a conversion."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

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


def export(module: nn.Module, path: Path) -> None:
    """As users export."""
    torch.onnx.export(
        module,
        (torch.zeros(1, 3, 32, 32),),
        path,
        dynamo=False,
        input_names=["pixels"],
        output_names=["scores"],
        dynamic_axes={"pixels": {0: "batch"}, "scores": {0: "batch"}},
    )


def test_a_graph_converts_for_what_starts_from_one_and_says_what_does_not(
    project: Project, graph: Path
) -> None:
    images = ("--calibration", "images/calibration", "--validation", "images/validation")
    kinds = ("--target", "onnx", "--target", "tflite", "--precision", "float")
    done = project.run("convert", "net.onnx", *kinds, *images, check=1)
    last = done.stderr.strip().splitlines()[-1]
    assert "tflite float" in last and "(1 of 2 artefacts failed, onnx float made)" in last
    manifest = project.manifest("runs/net")
    assert manifest["model"]["source"].startswith("ONNX file net.onnx, opset ")
    (made,) = (each for each in manifest["results"] if each["target"] == "onnx")
    assert made["accuracy"]["agreement"] == 1.0
    report = project.run("report", "runs/net", "--out", "report.md")
    assert report.returncode == 0 and "tflite" in (project.folder / "report.md").read_text()


def test_lossy_steps_are_refused_for_a_graph(project: Project, graph: Path) -> None:
    images = ("--calibration", "images/calibration")
    done = project.run(
        "convert",
        "net.onnx",
        "--target",
        "onnx",
        "--precision",
        "float",
        "--prune-heads",
        "1",
        *images,
        check=1,
    )
    assert "cannot make net.onnx smaller" in done.stderr
