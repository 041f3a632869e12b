"""The parts of one operation stand together in an exported graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from edgevit.backends.protocol import CompileRequest
from edgevit.backends.registry import backend_of
from edgevit.export import export_onnx
from edgevit.export.order import depth_first
from edgevit.images.preprocessing import Preprocessing
from edgevit.progress import QUIET
from edgevit.quantize.plan import PrecisionPlan
from edgevit.targets.profiles import load_board

GELU = ["Div", "Erf", "Add", "Mul", "Mul"]


class Parallel(nn.Module):
    """Branches of several depths side by side, each with its GELU, as in CrossViT and MambaOut."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(4, 4, 1) for _ in range(3))
        self.first = nn.Conv2d(3, 12, 2, 2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        parts = self.first(image).split(4, 1)
        branches = [nn.functional.gelu(layer(part)) for layer, part in zip(self.layers, parts, strict=True)]
        branches[1] = nn.functional.gelu(self.layers[0](branches[1]))
        return torch.cat(branches, 1).mean((2, 3))


def test_no_other_branch_stands_between_the_parts_of_a_gelu(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Parallel().eval()
    path = export_onnx(module, (8, 8), 3, tmp_path / "model.onnx")
    kinds = [node.op_type for node in onnx.load(path).graph.node]
    starts = [place for place, kind in enumerate(kinds) if kind == "Div"]
    assert len(starts) == 4
    assert all(kinds[start : start + 5] == GELU for start in starts)
    image = torch.randn(1, 3, 8, 8)
    (found,) = onnxruntime.InferenceSession(path).run(None, {"input": image.numpy()})
    with torch.inference_mode():
        np.testing.assert_allclose(found, module(image).numpy(), atol=1e-5)


def test_every_node_stays_behind_what_it_reads(tmp_path: Path) -> None:
    graph = onnx.load(export_onnx(Parallel().eval(), (8, 8), 3, tmp_path / "model.onnx"))
    names = {node.name for node in graph.graph.node}
    onnx.checker.check_model(depth_first(graph), full_check=True)  # it refuses what is read before it is made
    assert {node.name for node in graph.graph.node} == names


@pytest.mark.toolchain
@pytest.mark.slow
def test_the_compiler_finds_a_gelu_between_parallel_branches(tmp_path: Path) -> None:
    export_onnx(Parallel().eval(), (32, 32), 3, tmp_path / "model.onnx", for_npu=True)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    np.save(tmp_path / "pixels.npy", pixels)
    request = CompileRequest(
        onnx=tmp_path / "model.onnx",
        vendor_float=None,
        plan=PrecisionPlan("float"),
        board=load_board("rk3588"),
        preprocessing=Preprocessing((32, 32)),
        calibration=tmp_path / "pixels.npy",
        evaluate=None,
        out=tmp_path,
    )
    place = backend_of(request.board).place
    assert place is not None
    placed = place(request, QUIET)
    assert not placed.cpu_layers
    assert sum("Gelu" in layer.op for layer in placed.layers) == 4
