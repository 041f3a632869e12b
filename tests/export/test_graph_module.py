"""A graph as a torch module: the same function, in the operations that converters know."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from edgevit.errors import EdgevitError
from edgevit.export import export_program
from edgevit.export.graph_module import as_module, program_by_graph
from tests.rewrites.graph.graphs import SPELLINGS, Classifier, graph_of


def answers(graph: onnx.ModelProto, image: torch.Tensor) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    found: list[np.ndarray] = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    return found


@pytest.mark.parametrize("spelling", SPELLINGS[-2:])
def test_a_transformer_computes_the_same_as_a_program(tmp_path: Path, spelling: str) -> None:
    torch.manual_seed(0)
    graph = graph_of(Classifier(spelling, patch=4, grid=3, dim=12, heads=3), 1, 3, 12, 12)
    module, image = as_module(graph), torch.randn(1, 3, 12, 12)
    (right,) = answers(graph, image)
    with torch.inference_mode():
        np.testing.assert_allclose(module(image).numpy(), right, atol=1e-5)
        path = export_program(module, (12, 12), 3, tmp_path / "model.pt2")
        program = torch.export.load(path).module()
        np.testing.assert_allclose(program(image.permute(0, 2, 3, 1)).numpy(), right, atol=1e-5)
    targets = {str(node.target) for node in torch.export.load(path).graph.nodes}
    assert "aten.linear.default" in targets  # which converters know, and products with a constant not


def test_a_program_of_a_graph_keeps_its_softmax(tmp_path: Path) -> None:
    graph = graph_of(Classifier(SPELLINGS[-1], patch=4, grid=3, dim=12, heads=3), 1, 3, 12, 12)
    path = export_program(as_module(graph), (12, 12), 3, tmp_path / "model.pt2")
    targets = {str(node.target) for node in torch.export.load(path).graph.nodes}
    assert "aten.softmax.int" in targets and not any("log_softmax" in each for each in targets)


class Pieces(nn.Module):
    """Two outputs of convolutions, GELU, pools, steps, shuffles and borders."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.head = nn.Linear(8, 5)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = nn.functional.gelu(self.second(self.first(image)))
        x = x[:, :, ::2, 1:] * nn.functional.pad(x, (0, 0, 1, 1))[:, :, 2::2, 1:].flip(2)
        maps = nn.functional.pixel_shuffle(nn.functional.hardswish(x), 2)
        pooled = nn.functional.avg_pool2d(x, 3, 1, 1).mean((2, 3))
        return self.head(pooled), maps


def test_a_program_by_way_of_its_graph_is_the_same_function(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, image = Pieces().eval(), torch.randn(1, 3, 16, 16)
    program = export_program(module, (16, 16), 3, tmp_path / "model.pt2")
    again = torch.export.load(program_by_graph(program, tmp_path / "again.pt2")).module()
    with torch.inference_mode():
        for found, right in zip(again(image.permute(0, 2, 3, 1)), module(image), strict=True):
            torch.testing.assert_close(found, right, atol=1e-5, rtol=1e-5)
    assert {path.name for path in tmp_path.iterdir()} == {"model.pt2", "again.pt2"}


def test_every_output_and_the_activations_of_a_network() -> None:
    torch.manual_seed(0)
    graph = graph_of(Pieces(), 1, 3, 16, 16)
    module, image = as_module(graph), torch.randn(1, 3, 16, 16)
    with torch.inference_mode():
        found = module(image)
    for ours, right in zip(found, answers(graph, image), strict=True):
        np.testing.assert_allclose(ours.numpy(), right, atol=1e-5)
    assert "Gelu" in {node.op_type for node, _ in module.graph.nodes}


def test_an_operation_that_is_not_known_is_one_line() -> None:
    class Odd(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image.flatten(1).cumsum(1)

    with pytest.raises(EdgevitError, match="CumSum is not among the operations that edgevit knows"):
        as_module(graph_of(Odd(), 1, 3, 4, 4))
