"""Convolutions with long strides become chains of short ones that copy pixels exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from torch import nn

from edgevit.rewrites.graph.apply import outputs_of, rewrite_graph
from edgevit.rewrites.graph.strides import Window, best_chain, chains, cycles
from edgevit.targets.profiles import Npu
from tests.rewrites.graph.graphs import graph_of, kinds, noise

NPU = Npu(target="any", max_conv_stride=7)


class Stem(nn.Module):
    """One convolution, flattened."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.conv(image).flatten(1)


@settings(max_examples=40, deadline=None)
@given(
    stride=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    more=st.tuples(st.integers(-5, 9), st.integers(-5, 9)),
    pads=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    rest=st.integers(0, 7),
    channels=st.integers(1, 4),
)
def test_every_chain_computes_the_same_with_short_strides(
    stride: tuple[int, int], more: tuple[int, int], pads: tuple[int, int], rest: int, channels: int
) -> None:
    """Kernels longer and shorter than their stride, padded images, rows that no window reaches."""
    torch.manual_seed(0)
    kernel = tuple(max(1, step + extra) for step, extra in zip(stride, more, strict=True))
    size = [length + 2 * step + rest for length, step in zip(kernel, stride, strict=True)]
    model = Stem(nn.Conv2d(channels, 5, kernel, stride, pads))
    graph, images = graph_of(model, 1, channels, *size), noise(1, channels, *size)
    found = rewrite_graph(graph, ["split-strides"], images, NPU)
    np.testing.assert_allclose(
        outputs_of(found.graph, images), outputs_of(graph, images), rtol=1e-4, atol=1e-4
    )
    possible = any(True for _ in chains(stride, 7))
    assert any(record.changed for record in found.records) == (possible and max(stride) > 7)
    if found.records:
        assert_exact_taps(found.graph)


def assert_exact_taps(graph: Any) -> None:
    convs = [node for node in graph.graph.node if node.op_type == "Conv"]
    weights = {each.name: numpy_helper.to_array(each) for each in graph.graph.initializer}
    for conv in convs:
        assert max(next(each.ints for each in conv.attribute if each.name == "strides")) <= 7
    for conv in convs[:-1]:
        taps = weights[conv.input[1]]
        assert len(conv.input) == 2 and set(np.unique(taps)) <= {0.0, 1.0}
        assert (taps.reshape(len(taps), -1).sum(1) == 1).all()


def test_trained_weights_are_moved_not_changed() -> None:
    model = Stem(nn.Conv2d(3, 4, 16, 16))
    found = rewrite_graph(graph_of(model, 1, 3, 32, 32), ["split-strides"], noise(1, 3, 32, 32), NPU)
    weights = {each.name: numpy_helper.to_array(each) for each in found.graph.graph.initializer}
    last = next(node for node in reversed(found.graph.graph.node) if node.op_type == "Conv")
    before = model.conv.weight.detach().numpy().reshape(4, -1)
    np.testing.assert_array_equal(np.sort(weights[last.input[1]].reshape(4, -1)), np.sort(before))


@pytest.mark.parametrize(
    "conv",
    [nn.Conv2d(4, 4, 16, 16, groups=2), nn.Conv2d(4, 4, 8, 16, dilation=2), nn.Conv2d(4, 4, 11, 11)],
    ids=["grouped", "dilated", "prime"],
)
def test_other_convolutions_are_left_alone(conv: nn.Conv2d) -> None:
    graph = graph_of(Stem(conv), 1, 4, 32, 32)
    found = rewrite_graph(graph, ["split-strides"], noise(1, 4, 32, 32), NPU)
    assert found.graph == graph and kinds(found.graph).count("Conv") == 1


def test_a_target_without_a_stride_limit_keeps_the_convolution() -> None:
    graph = graph_of(Stem(nn.Conv2d(3, 4, 16, 16)), 1, 3, 32, 32)
    for npu in (None, Npu(target="any")):
        assert rewrite_graph(graph, ["split-strides"], noise(1, 3, 32, 32), npu).records == ()


def square(*strides: int) -> tuple[tuple[int, int], ...]:
    return tuple((stride, stride) for stride in strides)


def patches(kernel: int, side: int) -> Window:
    return Window((side, side), (kernel, kernel), (kernel, kernel), (0, 0), (0, 0))


# Counted by rknn-toolkit2 2.5.0 for int8 on two platforms with 1024 and 512 multiply-accumulates per cycle.
COMPILED = [
    (square(4, 4), 192, 224, 140288, 230400),
    (square(2, 2, 4), 192, 224, 115200, 187378),
    (square(2, 4, 2), 768, 224, 245248, 443673),
    (square(4, 2, 4), 192, 224, 174848, 340126),
    (square(2, 4, 4), 768, 224, 272896, 592668),
    (square(2, 7), 192, 196, 99616, 163306),
    (square(7, 2), 192, 196, 217040, 434080),
    (square(3, 4), 192, 168, 48192, 96384),
    (square(4, 2), 768, 112, 65024, 117504),
]


@pytest.mark.parametrize(("chain", "dim", "side", "large", "small"), COMPILED)
def test_cycles_agree_with_the_compiler(chain: Any, dim: int, side: int, large: int, small: int) -> None:
    aligned = {"token_alignment": 16, "input_channel_alignment": 32}
    big = Npu(
        target="a", macs_per_cycle_int8=1024, channel_alignment_int8=32, ddr_bytes_per_cycle=21.3, **aligned
    )
    little = Npu(
        target="b", macs_per_cycle_int8=512, channel_alignment_int8=16, ddr_bytes_per_cycle=5.9, **aligned
    )
    kernel = int(np.prod([stride for stride, _ in chain]))
    assert cycles(chain, big, patches(kernel, side), 3, dim) == pytest.approx(large, rel=0.03)
    assert cycles(chain, little, patches(kernel, side), 3, dim) == pytest.approx(small, rel=0.08)


@pytest.mark.parametrize("kernel", [8, 12, 14, 16, 32])
def test_the_chosen_chain_is_no_dearer_than_any_square_one(kernel: int) -> None:
    window = patches(kernel, kernel * 14)
    best = best_chain(window, NPU, 3, 192)
    assert best is not None
    squares = [each for each in chains((kernel, kernel), 7) if all(down == across for down, across in each)]
    assert cycles(best, NPU, window, 3, 192) <= min(cycles(each, NPU, window, 3, 192) for each in squares)
