"""Residual streams are found by how they are built and read, and can be rotated without any output noticing."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgevit.quantize.rotation import random_rotation
from edgevit.rewrites.graph.apply import outputs_of, proto_of
from edgevit.rewrites.graph.scales import fold_scales
from edgevit.rewrites.graph.streams import streams_of
from edgevit.rewrites.graph.turning import centre, rotate
from edgevit.rewrites.graph.values import opened
from tests.rewrites.graph.graphs import Classifier, graph_of, noise

READS = ("first", "mean", "mean before the norm", "map", "tokens")


class Block(nn.Module):
    """Pre-norm attention-like mixing and a small MLP, with scales, windows or without biases."""

    def __init__(self, dim: int, tokens: int, *, scaled: bool, bias: bool, windows: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.into, self.out = nn.Linear(dim, 6, bias=bias), nn.Linear(6, dim, bias=bias)
        self.mix = nn.Linear(tokens, tokens)
        self.mlp = nn.Sequential(
            nn.Linear(dim, 2 * dim, bias=bias), nn.GELU(), nn.Linear(2 * dim, dim, bias=bias)
        )
        self.scale = nn.Parameter(torch.rand(dim)) if scaled else None
        self.windows = windows

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm1(x)
        if self.windows:
            y = y.roll(1, 1)  # what moves tokens does not mix channels
        y = self.out(self.mix(self.into(y).transpose(1, 2)).transpose(1, 2).tanh())
        x = x + (y if self.scale is None else y * self.scale)
        return x + self.mlp(self.norm2(x))


class PreNorm(nn.Module):
    """Patches, blocks whose norms alone read the stream, an output in one of READS."""

    def __init__(
        self, dim: int, grid: int, depth: int, reads: str, *, token: bool, before: bool, **options: bool
    ) -> None:
        super().__init__()
        tokens = grid * grid + token
        self.patches, self.reads, self.grid = nn.Conv2d(3, dim, 2, 2), reads, grid
        self.first = nn.Parameter(torch.randn(1, 1, dim)) if token else None
        self.positions = nn.Parameter(torch.randn(1, tokens, dim))
        self.before = nn.LayerNorm(dim) if before else nn.Identity()
        self.blocks = nn.Sequential(*(Block(dim, tokens, **options) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, 5)
        for norm in (each for each in self.modules() if isinstance(each, nn.LayerNorm)):
            nn.init.normal_(norm.weight, 1.0, 0.5)
            nn.init.normal_(norm.bias)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.patches(image).flatten(2).transpose(1, 2)
        if self.first is not None:
            x = torch.cat([self.first, x], 1)
        x = self.blocks(self.before(x + self.positions))
        if self.reads == "mean before the norm":
            return self.head(self.norm(x.mean(1)))
        x = self.norm(x)
        if self.reads == "tokens":
            return x
        if self.reads == "map":
            return x[:, -(self.grid**2) :].transpose(1, 2).unflatten(2, (self.grid, self.grid))
        return self.head(x[:, 0] if self.reads == "first" else x.mean(1))


def turned(graph: onnx.ModelProto, *, centred: bool = False) -> tuple[onnx.ModelProto, int]:
    """The graph with every stream rotated, or centred, and how many there were."""
    model = opened(graph)
    if fold_scales(model.graph):
        model = opened(proto_of(model))
    streams = streams_of(model.graph)
    for stream in streams:
        if not centred:
            rotate(model.graph, stream, random_rotation(stream.width, 0))
        elif stream.only_normed:
            centre(model.graph, stream)
    return proto_of(model), len(streams)


def same(graph: onnx.ModelProto, changed: onnx.ModelProto, side: int) -> None:
    images = noise(2, 3, side, side)
    onnx.checker.check_model(changed)
    assert [each.name for each in changed.graph.output] == [each.name for each in graph.graph.output]
    for ours, theirs in zip(outputs_of(changed, images), outputs_of(graph, images), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4 * max(1.0, np.abs(theirs).max()))


@settings(max_examples=25, deadline=None)
@given(
    dim=st.integers(4, 20), grid=st.integers(2, 3), depth=st.integers(2, 3), reads=st.sampled_from(READS),
    token=st.booleans(), scaled=st.booleans(), bias=st.booleans(), windows=st.booleans(), centred=st.booleans(),
)  # fmt: skip
@pytest.mark.slow
def test_a_stream_that_norms_read_is_rotated_and_no_output_notices(
    dim: int,
    grid: int,
    depth: int,
    reads: str,
    token: bool,
    scaled: bool,
    bias: bool,
    windows: bool,
    centred: bool,
) -> None:
    torch.manual_seed(dim)
    options = {"scaled": scaled, "bias": bias, "windows": windows}
    model = PreNorm(dim, grid, depth, reads, token=token, before=False, **options).eval()
    graph = graph_of(model, 1, 3, 2 * grid, 2 * grid)
    changed, count = turned(graph, centred=centred)
    # What gives the norm's own output needs a product more: a small model's layers don't pay for that.
    assert count == 1 or reads in ("map", "tokens")
    same(graph, changed, 2 * grid)


@pytest.mark.slow
@pytest.mark.parametrize("reads", READS)
def test_a_norm_that_writes_to_the_stream_and_outputs_that_read_it_get_a_product_each(reads: str) -> None:
    torch.manual_seed(0)
    plain = {"scaled": False, "bias": True, "windows": False}
    model = PreNorm(16, 2, 12, reads, token=True, before=True, **plain).eval()
    graph = graph_of(model, 1, 3, 4, 4)
    changed, count = turned(graph)
    assert count == 1
    more = len(changed.graph.node) - len(graph.graph.node)
    assert 1 <= more <= 3  # the product behind the first norm; one for the last norm's output, and its shift
    same(graph, changed, 4)


def test_what_begins_a_stream_and_is_read_elsewhere_too_stays_for_those() -> None:
    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            options = {"scaled": False, "bias": True, "windows": False}
            self.patches = nn.Conv2d(3, 16, 2, 2)
            self.blocks = nn.Sequential(*(Block(16, 4, **options) for _ in range(12)))
            self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 5)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            x = self.patches(image).flatten(2).transpose(1, 2).tanh()
            return self.head(self.norm(self.blocks(x)).mean(1)) + x.exp().mean((1, 2))[:, None]

    torch.manual_seed(0)
    graph = graph_of(Skip().eval(), 1, 3, 4, 4)
    changed, count = turned(graph)
    assert count == 1
    same(graph, changed, 4)


def test_every_stage_of_a_pyramid_has_a_stream_of_its_own() -> None:
    class Pyramid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            options = {"scaled": False, "bias": True, "windows": False}
            self.patches, self.shrink = nn.Conv2d(3, 8, 2, 2), nn.Conv2d(8, 16, 2, 2)
            self.one = nn.Sequential(*(Block(8, 16, **options) for _ in range(8)))
            self.two = nn.Sequential(*(Block(16, 4, **options) for _ in range(8)))
            self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 5)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            x = self.one(self.patches(image).flatten(2).transpose(1, 2))
            x = self.shrink(x.transpose(1, 2).unflatten(2, (4, 4))).flatten(2).transpose(1, 2)
            return self.head(self.norm(self.two(x)).mean(1))

    torch.manual_seed(0)
    graph = graph_of(Pyramid().eval(), 1, 3, 8, 8)
    changed, count = turned(graph)
    assert count == 2
    assert len(changed.graph.node) == len(graph.graph.node)  # the convolution between them reads and writes
    same(graph, changed, 8)


def test_a_stream_that_norms_write_is_left_alone() -> None:
    torch.manual_seed(0)
    post_norm = Classifier("packed", patch=4, grid=2, dim=12, heads=3, depth=4)
    assert streams_of(opened(graph_of(post_norm.eval(), 1, 3, 8, 8)).graph) == []
