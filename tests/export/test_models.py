"""Models beyond the plain ViT, with random weights: the generic path exports them too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from edgevit import torch_setup  # noqa: F401
from edgevit.export import export_onnx, export_program, parity
from edgevit.images.preprocessing import Preprocessing

import timm  # isort: skip

NAMES = [
    "deit_tiny_patch16_224",
    "deit_tiny_distilled_patch16_224",
    "swin_tiny_patch4_window7_224",
    "mobilevit_s",
    "vit_base_patch16_224",
]


def random_weights(name: str) -> nn.Module:
    """A model none of whose branches is zero: published architectures start some scales at 0."""
    torch.manual_seed(0)
    model = timm.create_model(name).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter += 0.1 * torch.randn_like(parameter)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_exports_of_known_architectures_compute_what_torch_computes(tmp_path: Path, name: str) -> None:
    model = random_weights(name)
    size = tuple(model.pretrained_cfg["input_size"][1:])
    pixels = np.random.default_rng(0).integers(0, 256, (2, *size, 3), dtype=np.uint8)
    preprocessing = Preprocessing(size)
    graph = export_onnx(model, size, 3, tmp_path / "model.onnx")
    assert parity(graph, model, pixels, preprocessing) < 1e-4
    program = export_program(model, size, 3, tmp_path / "model.pt2")
    assert parity(program, model, pixels, preprocessing) < 1e-4
    found = onnx.load(graph)
    assert [entry.version for entry in found.opset_import if entry.domain == ""] == [19]
    assert not {"Shape", "If", "Loop", "ConstantOfShape"} & {node.op_type for node in found.graph.node}
