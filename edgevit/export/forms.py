"""Operations of torch written, exactly, as others that every compiler takes, while a model is traced.

The user's module isn't touched: torch's functions are replaced as long as the trace runs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

MAX_LINEAR_DIMENSIONS = 3


class PlainWindows(TorchFunctionMode):
    """`unfold` as a convolution and `fold` as a transposed one, with kernels of a single one each.

    The same numbers: each output of `unfold` is one input, each of `fold` a sum of the same few. As they are,
    exporters write them as gathers and scatters, which NPUs leave to the CPU and LiteRT refuses. `grouped`: one
    group of kernels a channel; else each channel is an image of its own, for converters without grouped transposed
    convolutions.
    """

    def __init__(self, *, grouped: bool) -> None:
        super().__init__()
        self.grouped = grouped

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function is functional.unfold:
            return unfold(*args, **(kwargs or {}), grouped=self.grouped)
        if function is functional.fold:
            return fold(*args, **(kwargs or {}), grouped=self.grouped)
        return function(*args, **(kwargs or {}))


def unfold(
    input: torch.Tensor,
    kernel_size: Any,
    dilation: Any = 1,
    padding: Any = 0,
    stride: Any = 1,
    *,
    grouped: bool = True,
) -> Any:
    """`torch.nn.functional.unfold` of [n, channels, height, width] to [n, channels * cells, places]."""
    cells, spread, pads, steps = pair(kernel_size), pair(dilation), pair(padding), pair(stride)
    if input.ndim != 4:
        return torch._C._nn.im2col(input, cells, spread, pads, steps)
    n, channels = input.shape[:2]
    given, groups = (input, channels) if grouped else (input.flatten(0, 1).unsqueeze(1), 1)
    windows = functional.conv2d(
        given, one_hot(groups, cells, input), None, steps, pads, spread, groups=groups
    )
    return windows.reshape(n, channels * cells[0] * cells[1], -1)


def fold(
    input: torch.Tensor,
    output_size: Any,
    kernel_size: Any,
    dilation: Any = 1,
    padding: Any = 0,
    stride: Any = 1,
    *,
    grouped: bool = True,
) -> Any:
    """`torch.nn.functional.fold` of [n, channels * cells, places] to [n, channels, *output_size]."""
    sizes = pair(output_size), pair(kernel_size), pair(dilation), pair(padding), pair(stride)
    if input.ndim != 3:
        return torch._C._nn.col2im(input, *sizes)
    out, cells, spread, pads, steps = sizes
    count = cells[0] * cells[1]
    n, channels = input.shape[0], input.shape[1] // count
    axes = list(zip(out, cells, spread, pads, steps, strict=True))
    places = [(length + 2 * pad - gap * (cell - 1) - 1) // step + 1 for length, cell, gap, pad, step in axes]
    if grouped:
        # What a transposed convolution gives by itself, against the size asked for.
        rest = [
            length - ((place - 1) * step - 2 * pad + gap * (cell - 1) + 1)
            for place, (length, cell, gap, pad, step) in zip(places, axes, strict=True)
        ]
        given, kernel = input.reshape(n, channels * count, *places), one_hot(channels, cells, input)
        return functional.conv_transpose2d(
            given, kernel, None, steps, pads, tuple(rest), groups=channels, dilation=spread
        )
    given, kernel = input.reshape(n * channels, count, *places), one_hot(1, cells, input)
    # The padding is cut off afterwards: LiteRT knows transposed convolutions without any.
    whole = functional.conv_transpose2d(given, kernel, None, steps, dilation=spread)
    lengths = zip(axes, whole.shape[2:], strict=True)
    missing = [max(0, pad + length - found) for (length, _, _, pad, _), found in lengths]
    if any(missing):  # a last row or column that no window reaches
        whole = functional.pad(whole, (0, missing[1], 0, missing[0]))
    (rows, columns), (top, left) = out, pads
    return whole[:, :, top : top + rows, left : left + columns].reshape(n, channels, rows, columns)


def one_hot(channels: int, cells: tuple[int, int], like: torch.Tensor) -> torch.Tensor:
    """Kernels [channels * cells, 1, rows, columns], each with a single one, in the order of `unfold`."""
    count = cells[0] * cells[1]
    if channels == 1:
        # Numbers from outside torch are constants of a traced program; torch.eye would be a part of it.
        return torch.from_numpy(np.eye(count)).to(like.dtype).reshape(count, 1, *cells)
    # A kernel of its own for each convolution: rknn-toolkit2 dies of one that several share.
    return torch.eye(count, dtype=like.dtype).reshape(count, 1, *cells).repeat(channels, 1, 1, 1)


def pair(value: Any) -> tuple[int, int]:
    """(rows, columns) of one number or two."""
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


class PlainOperations(TorchFunctionMode):
    """Operations that exporters refuse, as others: pools whose cells differ in size, sliding windows, RMSNorm."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        plain = PLAIN.get(function, function)
        return plain(*args, **(kwargs or {}))


def adaptive_pool(input: torch.Tensor, output_size: Any) -> torch.Tensor:
    """`torch.nn.functional.adaptive_avg_pool2d`; where its cells differ in size, by a matrix of weights an axis."""
    lengths = [int(each) for each in input.shape[-2:]]
    asked = output_size if isinstance(output_size, (tuple, list)) else (output_size, output_size)
    sizes = [length if size is None else int(size) for size, length in zip(asked, lengths, strict=True)]
    if not any(length % size for size, length in zip(sizes, lengths, strict=True)):
        return functional.adaptive_avg_pool2d(input, (sizes[0], sizes[1]))
    rows, columns = (cells(*each).to(input.dtype) for each in zip(lengths, sizes, strict=True))
    return (rows @ input) @ columns.T


def cells(length: int, count: int) -> torch.Tensor:
    """Weights [count, length] of each cell's mean, from floor(i length / count) to ceil((i + 1) length / count)."""
    weights = np.zeros((count, length))
    for number in range(count):
        first, last = number * length // count, -(-(number + 1) * length // count)
        weights[number, first:last] = 1 / (last - first)
    return torch.from_numpy(weights.astype(np.float32))


def sliding(input: torch.Tensor, dimension: int, size: int, step: int) -> torch.Tensor:
    """`torch.Tensor.unfold`: windows along an axis, their places last, as slices."""
    axis = dimension % input.ndim
    count = (input.shape[axis] - size) // step + 1
    places = [input.narrow(axis, place, (count - 1) * step + 1) for place in range(size)]
    every = (slice(None),) * axis + (slice(None, None, step),)
    return torch.stack([place[every] for place in places], -1)


def rms_norm(
    input: torch.Tensor, normalized_shape: Any, weight: torch.Tensor | None = None, eps: float | None = None
) -> torch.Tensor:
    """`torch.nn.functional.rms_norm`, spelt out."""
    axes = tuple(range(-len(normalized_shape), 0))
    epsilon = torch.finfo(input.dtype).eps if eps is None else eps
    normed = input * torch.rsqrt(input.square().mean(axes, keepdim=True) + epsilon)
    return normed if weight is None else normed * weight


PLAIN: dict[Any, Any] = {
    functional.adaptive_avg_pool2d: adaptive_pool,
    functional.rms_norm: rms_norm,
    torch.rms_norm: rms_norm,
    torch.Tensor.unfold: sliding,
}


# What treats every vector of channels alike, with the names of its arguments.
OVER_CHANNELS: dict[Any, tuple[str, ...]] = {
    functional.linear: ("input", "weight", "bias"),
    functional.layer_norm: ("input", "normalized_shape", "weight", "bias", "eps"),
}


class PlainLinears(TorchFunctionMode):
    """Linear layers, and norms before them, as what LiteRT's converter makes nothing wrong of.

    Its own checks refuse what it makes of others ("expected 3 but got 4"). Those over more than three dimensions
    run over two, and their outputs get the shape back; layers spelt as convolutions over a line are linear ones.
    The same sums in the same order.
    """

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function is functional.conv1d and (mixed := as_linear(*args, **(kwargs or {}))) is not None:
            return mixed
        names = OVER_CHANNELS.get(function, ())
        values = dict(zip(names, args, strict=False)) | (kwargs or {})
        over_channels = names and len(values.get("normalized_shape", (1,))) == 1
        if not over_channels or values["input"].ndim <= MAX_LINEAR_DIMENSIONS:
            return function(*args, **(kwargs or {}))
        given = values.pop("input")
        flat: torch.Tensor = function(given.flatten(0, -2), **values)
        return flat.reshape(*given.shape[:-1], flat.shape[-1])


def as_linear(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> torch.Tensor | None:
    """`torch.nn.functional.conv1d` of kernels of one value as a linear layer, which the quantizer knows; None
    where it is more than that."""
    plain = stride in (1, (1,), [1]) and padding in (0, (0,), [0], "valid", "same") and groups == 1
    if weight.shape[2] != 1 or not plain:
        return None
    return functional.linear(input.mT, weight[:, :, 0], bias).mT
