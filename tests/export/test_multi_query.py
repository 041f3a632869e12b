"""Heads that share a key and a value compute the same without copies of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgevit.export import export_onnx
from edgevit.export.multi_query import heads_as_rows
from tests.rewrites.graph.graphs import graph_of, kinds, noise


class MultiQuery(nn.Module):
    """x [n, tokens, dim] attended to by several heads, with keys and values of one."""

    def __init__(self, dim: int, heads: int, width: int) -> None:
        super().__init__()
        self.heads, self.width = heads, width
        self.query, self.key = nn.Linear(dim, heads * width), nn.Linear(dim, width)
        self.value, self.out = nn.Linear(dim, width), nn.Linear(heads * width, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, tokens, _ = x.shape
        q = self.query(x).reshape(n, tokens, self.heads, self.width).transpose(1, 2)
        k, v = self.key(x).unsqueeze(1), self.value(x).unsqueeze(1)
        y = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.out(y.transpose(1, 2).flatten(2))


@given(st.integers(1, 9), st.integers(1, 6), st.integers(2, 4), st.integers(1, 5))
@settings(deadline=None, max_examples=8)
def test_the_same_function_for_any_shape(tokens: int, dim: int, heads: int, width: int) -> None:
    graph = graph_of(MultiQuery(dim, heads, width), 1, tokens, dim)
    before = onnx.ModelProto()
    before.CopyFrom(graph)
    found = heads_as_rows(graph)
    onnx.checker.check_model(found, full_check=True)
    x = noise(1, tokens, dim)
    answers = [
        onnxruntime.InferenceSession(each.SerializeToString()).run(None, {"input": x})[0]
        for each in (before, found)
    ]
    np.testing.assert_allclose(*answers, atol=1e-5)
    assert kinds(found).count("Reshape") == kinds(before).count("Reshape") + 4


@pytest.mark.parametrize("for_npu", [True, False])
def test_only_graphs_for_npus_are_written_so(tmp_path: Path, for_npu: bool) -> None:
    module = nn.Sequential(nn.Flatten(2), MultiQuery(16, 3, 4), nn.Flatten()).eval()
    graph = onnx.load(export_onnx(module, (4, 4), 3, tmp_path / "model.onnx", for_npu=for_npu))
    assert any(node.output[0].endswith("_product") for node in graph.graph.node) is for_npu


def test_heads_of_their_own_are_left() -> None:
    class Own(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ x.transpose(-2, -1)

    graph = graph_of(Own(), 1, 3, 5, 4)
    assert kinds(heads_as_rows(graph)).count("Reshape") == 0
