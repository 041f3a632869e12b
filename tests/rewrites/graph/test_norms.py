"""LayerNorms that a graph spells out become one operation each, and nothing else does."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgevit.rewrites.graph.apply import outputs_of
from edgevit.rewrites.graph.norms import fold_norms_of_one, fuse_norms
from edgevit.rewrites.graph.values import opened
from tests.rewrites.graph.graphs import graph_of, kinds, noise


class Spelt(nn.Module):
    """A norm over the last axis as people write it: how it squares, how it divides, what it multiplies and adds."""

    def __init__(self, width: int, squares: str, divides: str, *, scaled: bool, shifted: bool) -> None:
        super().__init__()
        self.squares, self.divides = squares, divides
        self.scale = nn.Parameter(torch.rand(width) + 0.5) if scaled else None
        self.shift = nn.Parameter(torch.rand(width)) if shifted else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        centred = x - x.mean(-1, keepdim=True)
        squared = centred.pow(2) if self.squares == "power" else centred * centred
        root = torch.sqrt(squared.mean(-1, keepdim=True) + 1e-5)
        y = centred / root if self.divides == "divided" else centred * (1 / root)
        y = y if self.scale is None else (self.scale * y if self.squares == "power" else y * self.scale)
        return (y if self.shift is None else y + self.shift).tanh()


def fused(graph: onnx.ModelProto) -> tuple[int, onnx.ModelProto]:
    model = opened(graph)
    return fuse_norms(model), ir.to_proto(model)


@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=3),
    st.integers(2, 9),
    st.sampled_from(("power", "product")),
    st.sampled_from(("divided", "multiplied")),
    st.booleans(),
    st.booleans(),
)
@settings(deadline=None, max_examples=12)
def test_every_spelling_is_one_norm_of_the_same_function(
    lengths: list[int], width: int, squares: str, divides: str, scaled: bool, shifted: bool
) -> None:
    graph = graph_of(
        nn.Sequential(nn.Linear(4, width), Spelt(width, squares, divides, scaled=scaled, shifted=shifted)),
        *(1, *lengths, 4),
    )
    count, found = fused(graph)
    assert count == 1
    assert not {"ReduceMean", "Sqrt", "Sub"} & set(kinds(found)) and "LayerNormalization" in kinds(found)
    images = noise(3, *lengths, 4)
    for ours, right in zip(outputs_of(found, images), outputs_of(graph, images), strict=True):
        np.testing.assert_allclose(ours, right, atol=1e-5)


class Other(nn.Module):
    """What resembles a norm: over another axis, of other squares, an output that the graph gives too."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        axis = 1 if self.what == "axis" else -1
        centred = x - x.mean(axis, keepdim=True)
        squared = (x if self.what == "squares" else centred) ** (3 if self.what == "power" else 2)
        return centred / torch.sqrt(squared.mean(axis, keepdim=True) + 1e-5)


@pytest.mark.parametrize("what", ["axis", "squares", "power"])
def test_what_only_resembles_a_norm_is_left(what: str) -> None:
    graph = graph_of(Other(what), 1, 6, 5)
    assert fused(graph)[0] == 0


def test_a_factor_that_is_no_norms_own_stays_behind_it() -> None:
    class Gated(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            centred = x - x.mean(-1, keepdim=True)
            y = centred / torch.sqrt(centred.square().mean(-1, keepdim=True) + 1e-5)
            return y * torch.linspace(0, 1, 6)[:, None] + y

    graph = graph_of(Gated(), 1, 6, 5)
    count, found = fused(graph)
    assert count == 1 and "Mul" in kinds(found)
    images = noise(2, 6, 5)
    for ours, right in zip(outputs_of(found, images), outputs_of(graph, images), strict=True):
        np.testing.assert_allclose(ours, right, atol=1e-5)


@pytest.mark.parametrize("biased", [True, False])
def test_a_norm_over_one_value_is_its_bias(biased: bool) -> None:
    """ONNX Runtime computes no such norm; CSATv2 has one."""
    norm = nn.LayerNorm(1, bias=biased)
    if biased:
        nn.init.constant_(norm.bias, 0.25)
    module = nn.Sequential(nn.Linear(4, 1), norm, nn.Linear(1, 3))
    model = opened(graph_of(module, 1, 6, 4))
    assert fold_norms_of_one(model) == 1
    found = ir.to_proto(model)
    assert "LayerNormalization" not in kinds(found)
    images = noise(2, 6, 4)
    (ours,) = outputs_of(found, images)
    with torch.inference_mode():
        right = module(torch.from_numpy(images)).flatten(1).numpy()
    np.testing.assert_allclose(ours, right, atol=1e-6)


def test_a_norm_over_more_than_one_value_is_left() -> None:
    model = opened(graph_of(nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 2)), 1, 1, 4))
    assert fold_norms_of_one(model) == 0
