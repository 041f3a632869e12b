"""Convolutions whose strides an NPU can take.

A convolution of stride S reads blocks of pixels. Convolutions that only copy pixels into channels ("taps": each
output channel has one weight, 1) bring a block together step by step, and the last one applies the trained weights
to blocks instead of pixels. Same sums, other order; the strides multiply to S. A kernel that is no whole number of
blocks is filled up with zeros, and so is the border of the image that only those zeros read.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import pattern

from edgevit.rewrites.graph.values import Array, constant, integer, integers, shape_of
from edgevit.targets.profiles import Npu

Pair = tuple[int, int]
Chain = tuple[Pair, ...]

MAX_STAGES = 3


@dataclass(frozen=True)
class Window:
    """What a convolution reads: sizes as (rows, columns), `before` and `after` the image's border of zeros."""

    image: Pair
    kernel: Pair
    stride: Pair
    before: Pair
    after: Pair

    @property
    def output(self) -> Pair:
        """Rows and columns of the result."""
        axes = zip(self.image, self.kernel, self.stride, self.before, self.after, strict=True)
        rows, columns = ((size + b + a - kernel) // stride + 1 for size, kernel, stride, b, a in axes)
        return rows, columns


class SplitStrides(pattern.RewriteRuleClassBase):
    """A convolution beyond `npu.max_conv_stride` becomes the cheapest chain within it."""

    def __init__(self, npu: Npu) -> None:
        super().__init__("split-strides")
        self.npu = npu

    def pattern(self, op: Any, image: Any, weight: Any) -> Any:
        """Any convolution."""
        return op.Conv(
            image, weight, _allow_other_inputs=True, _allow_other_attributes=True, _outputs=["conv"]
        )

    def check(self, op: Any, image: ir.Value, weight: ir.Value, conv: ir.Value) -> Any:
        """Whether its stride is too long and a chain exists."""
        result = pattern.MatchResult()
        window, kernel = window_of(conv.producer()), constant(weight)
        limit = self.npu.max_conv_stride
        if window is None or kernel is None or limit is None or max(window.stride) <= limit:
            return result.fail("its stride fits, or its shapes are not known")
        self.chain = best_chain(window, self.npu, kernel.shape[1], kernel.shape[0])
        return result if self.chain else result.fail(f"no strides up to {limit} multiply to {window.stride}")

    def rewrite(self, op: Any, image: ir.Value, weight: ir.Value, conv: ir.Value) -> Any:
        """The chain."""
        node = conv.producer()
        assert node is not None
        window, kernel = window_of(node), constant(weight)
        assert window is not None and kernel is not None and self.chain is not None
        before, after, taps, last = chained(kernel, window, self.chain)
        value, name = image, conv.name
        for number, (tap, stride) in enumerate(zip(taps, self.chain, strict=False)):
            pads = [*before, *after] if number == 0 else [0] * 4
            weights = op.initializer(ir.tensor(tap), name=f"{name}_taps_{number}")
            value = op.Conv(value, weights, kernel_shape=list(stride), strides=list(stride), pads=pads)
        weights = op.initializer(ir.tensor(last), name=f"{name}_weight")
        return op.Conv(
            value,
            weights,
            *node.inputs[2:],
            kernel_shape=list(last.shape[2:]),
            strides=list(self.chain[-1]),
            pads=[0] * 4,
        )


def window_of(node: ir.Node | None) -> Window | None:
    """The window of a plain 2-d convolution of static shape; None for one that is grouped or dilated."""
    size = shape_of(node.inputs[0]) if node is not None else None
    weight = shape_of(node.inputs[1]) if node is not None else None
    if node is None or size is None or weight is None or len(size) != 4:
        return None
    plain = integer(node, "group", 1) == 1 and set(integers(node, "dilations", (1, 1)) or ()) == {1}
    padding = node.attributes.get("auto_pad")
    if not plain or (padding is not None and padding.as_string() not in ("NOTSET", "VALID")):
        return None
    pads, strides = integers(node, "pads", (0,) * 4) or [], integers(node, "strides", (1, 1)) or []
    return Window(
        image=(size[2], size[3]),
        kernel=(weight[2], weight[3]),
        stride=(strides[0], strides[1]),
        before=(pads[0], pads[1]),
        after=(pads[2], pads[3]),
    )


def best_chain(window: Window, npu: Npu, channels: int, dim: int) -> Chain | None:
    """The chain of strides with the fewest `cycles`, on a tie the shorter and more even one; None if there is none.

    A profile that tells neither speed nor memory traffic leaves all chains equal.
    """
    limit = npu.max_conv_stride or max(window.stride)

    def rank(chain: Chain) -> tuple[float, int, int]:
        cost = cycles(chain, npu, window, channels, dim)
        return cost, len(chain), max(max(strides) for strides in chain)

    return min(chains(window.stride, limit), key=rank, default=None)


def chains(stride: Pair, limit: int) -> Iterator[Chain]:
    """Sequences of up to MAX_STAGES (rows, columns) strides within `limit` whose products are the stride."""
    for stages in range(1, MAX_STAGES + 1):
        for rows in ordered_factors(stride[0], stages, limit):
            for columns in ordered_factors(stride[1], stages, limit):
                chain = tuple(zip(rows, columns, strict=True))
                if (1, 1) not in chain:
                    yield chain


def ordered_factors(number: int, count: int, limit: int) -> list[tuple[int, ...]]:
    """Every ordered product of `count` factors from 1 to `limit` that gives `number`."""
    divisors = [factor for factor in range(1, limit + 1) if number % factor == 0]
    return [factors for factors in itertools.product(divisors, repeat=count) if math.prod(factors) == number]


def cycles(chain: Chain, npu: Npu, window: Window, channels: int, dim: int) -> float:
    """Cycles of a chain by the model that reproduces the vendor compiler's own count for int8 convolutions.

    The time of int8 multiply-accumulates in whole blocks, or of memory traffic, whichever takes longer, summed
    over the convolutions. What the profile does not tell is not counted.
    """
    macs = npu.macs_per_cycle_int8 or math.inf
    _, _, height, width, kernel = blocks(window, chain)
    total, before = 0.0, math.prod(window.image) * channels
    for index, (down, across) in enumerate(chain):
        last = index == len(chain) - 1
        height, width = window.output if last else (height // down, width // across)
        taps = math.prod(kernel) if last else down * across
        out = dim if last else channels * taps
        work = taps * npu.macs_of(height * width, channels, out)
        weights, after = channels * taps * out, height * width * out
        traffic = (before + weights + after) / (npu.ddr_bytes_per_cycle or math.inf)
        total += max(work / macs, traffic)
        channels, before = out, after
    return total


def blocks(window: Window, chain: Chain) -> tuple[Pair, Pair, int, int, Pair]:
    """(before, after, rows, columns, kernel): borders and size of the image that taps read, the last kernel."""
    step = tuple(math.prod(stride[axis] for stride in chain[:-1]) for axis in (0, 1))
    kernel = tuple(-(-size // each) for size, each in zip(window.kernel, step, strict=True))
    # What the windows reach, in whole blocks; rows of the image beyond that are read by none.
    reach = [
        (count - 1) * stride + size * each
        for count, stride, size, each in zip(window.output, window.stride, kernel, step, strict=True)
    ]
    given = [size + b for size, b in zip(window.image, window.before, strict=True)]
    # Taps at a stride drop a last incomplete block by themselves.
    after = tuple(max(0, wanted - have) for wanted, have in zip(reach, given, strict=True))
    rows, columns = (have + more for have, more in zip(given, after, strict=True))
    return window.before, (after[0], after[1]), rows, columns, (kernel[0], kernel[1])


def chained(kernel: Array, window: Window, chain: Chain) -> tuple[Pair, Pair, list[Array], Array]:
    """(before, after, taps, last): borders for the first convolution, weights [out, in, rows, columns] of each."""
    before, after, _, _, size = blocks(window, chain)
    channels, step = kernel.shape[1], (1, 1)
    taps = []
    for stride in chain[:-1]:
        taps.append(tap_weights(channels, stride, kernel.dtype))
        channels *= math.prod(stride)
        step = (step[0] * stride[0], step[1] * stride[1])
    filled = np.zeros((*kernel.shape[:2], size[0] * step[0], size[1] * step[1]), kernel.dtype)
    filled[:, :, : kernel.shape[2], : kernel.shape[3]] = kernel
    # Copying the index of every weight as taps copy pixels says where each weight goes.
    order = np.arange(filled[0].size).reshape(filled.shape[1:])
    for stride in chain[:-1]:
        order = gathered(order, stride)
    last = filled.reshape(len(kernel), -1)[:, order.reshape(-1)].reshape(len(kernel), *order.shape)
    return before, after, taps, np.ascontiguousarray(last)


def gathered(image: Array, stride: Pair) -> Array:
    """Blocks [channels, rows, columns] brought together in channels, in the order of `tap_weights`."""
    channels, rows, columns = image.shape
    (down, across) = stride
    cut = image.reshape(channels, rows // down, down, columns // across, across)
    return cut.transpose(0, 2, 4, 1, 3).reshape(-1, rows // down, columns // across)


def tap_weights(channels: int, stride: Pair, dtype: Any) -> Array:
    """A kernel that only copies: output channel (c, i, j) is pixel (i, j) of channel c's block."""
    count = channels * math.prod(stride)
    return np.eye(count, dtype=dtype).reshape(count, channels, *stride)
