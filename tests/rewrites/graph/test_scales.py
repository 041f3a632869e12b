"""Batch norms behind linear layers fold into them, and stay behind anything else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgevit.rewrites.graph.apply import outputs_of, proto_of
from edgevit.rewrites.graph.scales import fold_batch_norms
from edgevit.rewrites.graph.values import opened
from tests.rewrites.graph.graphs import graph_of, kinds, noise

LAYERS = ("tokens", "channels first", "map", "row")


class Normed(nn.Module):
    """Linear layers with a batch norm behind each, over an image's tokens, as people lay them out."""

    def __init__(self, layer: str, width: int, *, bias: bool, between: str = "") -> None:
        super().__init__()
        self.layer, self.between = layer, between
        self.linear = nn.Linear(3, width, bias=bias)
        self.conv = nn.Conv2d(3, width, 1, bias=bias)
        self.norm = nn.BatchNorm2d(width) if layer == "map" else nn.BatchNorm1d(width)
        for name, value in (*self.norm.named_parameters(), *self.norm.named_buffers()):
            if value.dtype == torch.float32:
                nn.init.uniform_(value, 0.5, 2.0) if "bias" not in name else nn.init.normal_(value)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        if self.layer == "map":
            x = self.conv(image)
        else:
            x = self.linear(image.mean((2, 3)) if self.layer == "row" else image.flatten(2).transpose(1, 2))
        y = x.relu() if self.between == "activation" else x
        if self.layer == "tokens":
            y = self.norm(y.flatten(0, 1)).reshape_as(y)
        elif self.layer == "channels first":
            y = self.norm(y.transpose(1, 2)).transpose(1, 2)
        else:
            y = self.norm(y)
        return y.tanh() + x if self.between == "another reader" else y.tanh()


def folded(module: nn.Module) -> int:
    """How many batch norms fold; the outputs are proved to stay."""
    graph, images = graph_of(module, 1, 3, 2, 3), noise(3, 3, 2, 3)
    model = opened(graph)
    count = fold_batch_norms(model.graph)
    made = proto_of(model)
    np.testing.assert_allclose(
        outputs_of(made, images)[0], outputs_of(graph, images)[0], rtol=1e-4, atol=1e-5
    )
    assert kinds(made).count("BatchNormalization") == kinds(graph).count("BatchNormalization") - count
    return count


@pytest.mark.parametrize("layer", LAYERS)
@settings(max_examples=6, deadline=None)
@given(width=st.integers(1, 9), bias=st.booleans(), seed=st.integers(0, 99))
def test_a_batch_norm_is_part_of_the_layer_before_it(layer: str, width: int, bias: bool, seed: int) -> None:
    torch.manual_seed(seed)
    module = Normed(layer, width, bias=bias).eval()
    before = kinds(graph_of(module, 1, 3, 2, 3)).count("BatchNormalization")
    assert folded(module) == before
    assert before == 1 or layer in ("map", "row")  # the exporter folds those it knows


@pytest.mark.parametrize("between", ["activation", "another reader"])
@pytest.mark.parametrize("layer", LAYERS)
def test_it_stays_where_the_layer_is_read_without_it(layer: str, between: str) -> None:
    torch.manual_seed(0)
    assert folded(Normed(layer, 5, bias=True, between=between).eval()) == 0
