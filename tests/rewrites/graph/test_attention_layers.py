"""Layers around an attention take constants and factors of its channels, in any spelling, and outputs stay."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgevit.rewrites.graph.apply import outputs_of, proto_of
from edgevit.rewrites.graph.attention_layers import (
    Attention,
    attentions_of,
    scale_queries,
    scale_values,
    shift_keys,
    shift_values,
)
from edgevit.rewrites.graph.values import opened
from tests.rewrites.graph.graphs import SPELLINGS, Classifier, graph_of, noise

Change = Callable[[ir.Graph, Attention], bool]
RANDOM = np.random.default_rng(0)


def some(count: int) -> np.ndarray:
    return RANDOM.uniform(0.3, 3.0, count)


MOVES: dict[str, Change] = {
    "shift values": lambda graph, each: each.v is not None and shift_values(graph, each, some(each.v.count)),
    "scale values": lambda graph, each: each.v is not None and scale_values(each, some(each.v.count)),
    "shift keys": lambda graph, each: each.k is not None and shift_keys(graph, each, some(each.k.count)),
    "scale queries": lambda graph, each: (
        each.pairs is not None and scale_queries(each, some(len(each.pairs)))
    ),
}


def changed(module: nn.Module, move: str, *shape: int) -> int:
    """How many attentions take a move; the outputs are proved to stay."""
    graph, images = graph_of(module, *shape), noise(3, *shape[1:])
    model = opened(graph)
    count = sum(MOVES[move](model.graph, each) for each in list(attentions_of(model.graph)))
    made = proto_of(model)
    if count:
        assert made.SerializeToString() != graph.SerializeToString()
    for ours, theirs in zip(outputs_of(made, images), outputs_of(graph, images), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=2e-4)
    return count


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("spelling", SPELLINGS)
@settings(max_examples=4, deadline=None)
@given(heads=st.integers(1, 3), width=st.integers(1, 4), grid=st.integers(1, 3), mean=st.booleans())
def test_any_spelling_takes_them(
    spelling: str, move: str, heads: int, width: int, grid: int, mean: bool
) -> None:
    torch.manual_seed(heads * 100 + width * 10 + grid)
    made = Classifier(spelling, patch=2, grid=grid, dim=heads * width, heads=heads, mean=mean)
    assert changed(made, move, 1, 3, 2 * grid, 2 * grid) == 2


class Windows(nn.Module):
    """Attention in windows of a map, its layers convolutions; `more` reads what else the values are good for."""

    def __init__(self, dim: int, heads: int, *, more: str = "") -> None:
        super().__init__()
        self.qkv, self.proj = nn.Conv2d(3, 3 * dim, 1), nn.Conv2d(dim, 4, 1)
        self.heads, self.more, self.mix = heads, more, nn.Conv2d(dim, dim, 3, padding=1, groups=dim)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        qkv = self.qkv(image)
        n, three, height, width = qkv.shape
        windows = qkv.reshape(n, 3, self.heads, -1, height // 2, 2, width // 2, 2)
        q, k, v = windows.permute(1, 0, 4, 6, 2, 5, 7, 3).flatten(5, 6).unbind(0)
        out = (q @ k.transpose(-1, -2) * 0.3).softmax(-1) @ v
        back = out.unflatten(4, (2, 2)).permute(0, 3, 6, 1, 4, 2, 5).reshape(n, three // 3, height, width)
        if self.more == "values":
            back = back + self.mix(qkv[:, -three // 3 :])
        return self.proj(back.relu() if self.more == "activation" else back)


@pytest.mark.parametrize("move", MOVES)
def test_windows_of_convolutions_take_them(move: str) -> None:
    torch.manual_seed(0)
    assert changed(Windows(6, 2), move, 1, 3, 4, 6) == 1


@pytest.mark.parametrize("more", ["values", "activation"])
@pytest.mark.parametrize(("move", "count"), [("shift values", 0), ("scale values", 0), ("shift keys", 1)])
def test_values_that_something_else_reads_are_left_alone(more: str, move: str, count: int) -> None:
    torch.manual_seed(0)
    assert changed(Windows(6, 2, more=more), move, 1, 3, 4, 6) == count


class OneKey(nn.Module):
    """Several heads of queries share one of keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(5, size, bias=False) for size in (8, 4, 4))
        self.proj = nn.Linear(8, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = image.flatten(2).transpose(1, 2)
        q = self.q(x).unflatten(-1, (2, 4)).transpose(1, 2)
        k, v = (layer(x).unsqueeze(1).expand(-1, 2, -1, -1) for layer in (self.k, self.v))
        return self.proj(((q @ k.transpose(-1, -2)).softmax(-1) @ v).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("move", MOVES)
def test_keys_that_several_heads_share_are_not_scaled_for_one(move: str) -> None:
    torch.manual_seed(0)
    count = changed(OneKey(), move, 1, 5, 2, 3)
    if move == "scale queries":
        assert count == 0


def test_a_normalised_query_is_not_a_layer_s() -> None:
    class Normed(Windows):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            x = self.qkv(image).flatten(2).transpose(1, 2)
            q, k, v = x.chunk(3, -1)
            q = nn.functional.layer_norm(q, q.shape[-1:])
            return self.proj(((q @ k.transpose(-1, -2)).softmax(-1) @ v).transpose(1, 2).unsqueeze(-1))

    torch.manual_seed(0)
    model = opened(graph_of(Normed(6, 2), 1, 3, 2, 2))
    (found,) = attentions_of(model.graph)
    assert found.q is None
    assert found.k is not None
    assert found.v is not None
    assert found.pairs is None


def test_values_are_found_beside_rotary_positions() -> None:
    class Rotary(Windows):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            q, k, v = self.qkv(image).flatten(2).transpose(1, 2).chunk(3, -1)
            angles = torch.arange(3.0)[:, None]

            def turned(x: torch.Tensor) -> torch.Tensor:
                even, odd = x[:, 1:].chunk(2, -1)
                more = (even * angles.cos() - odd * angles.sin(), odd * angles.cos() + even * angles.sin())
                return torch.cat([x[:, :1], torch.cat(more, -1)], 1)

            out = (turned(q) @ turned(k).transpose(-1, -2)).softmax(-1) @ v
            return self.proj(out.transpose(1, 2).unsqueeze(-1))

    torch.manual_seed(0)
    made = Rotary(6, 2)
    assert changed(made, "shift values", 1, 3, 2, 2) == 1
    assert changed(made, "shift keys", 1, 3, 2, 2) == 0
