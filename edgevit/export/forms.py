"""Operations of torch written, exactly, as others that every compiler takes, while a model is traced.

The user's module isn't touched: torch's functions are replaced as long as the trace runs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

MAX_LINEAR_DIMENSIONS = 3


class PlainWindows(TorchFunctionMode):
    """`unfold` as a convolution and `fold` as a transposed one, with kernels of a single one each.

    The same numbers: each output of `unfold` is one input, each of `fold` a sum of the same few. As they are,
    exporters write them as gathers and scatters, which NPUs leave to the CPU and LiteRT refuses.
    """

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function is functional.unfold:
            return unfold(*args, **(kwargs or {}))
        if function is functional.fold:
            return fold(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))


def unfold(
    input: torch.Tensor, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1
) -> Any:
    """`torch.nn.functional.unfold` of [n, channels, height, width] to [n, channels * cells, places]."""
    if input.ndim != 4:
        return torch._C._nn.im2col(input, pair(kernel_size), pair(dilation), pair(padding), pair(stride))
    channels = input.shape[1]
    kernel = one_hot(channels, pair(kernel_size), input)
    windows = functional.conv2d(
        input, kernel, None, pair(stride), pair(padding), pair(dilation), groups=channels
    )
    return windows.flatten(2)


def fold(
    input: torch.Tensor,
    output_size: Any,
    kernel_size: Any,
    dilation: Any = 1,
    padding: Any = 0,
    stride: Any = 1,
) -> Any:
    """`torch.nn.functional.fold` of [n, channels * cells, places] to [n, channels, *output_size]."""
    sizes = pair(output_size), pair(kernel_size), pair(dilation), pair(padding), pair(stride)
    if input.ndim != 3:
        return torch._C._nn.col2im(input, *sizes)
    out, cells, spread, pads, steps = sizes
    channels = input.shape[1] // (cells[0] * cells[1])
    axes = list(zip(out, cells, spread, pads, steps, strict=True))
    places = [(length + 2 * pad - gap * (cell - 1) - 1) // step + 1 for length, cell, gap, pad, step in axes]
    # What a transposed convolution gives by itself, against the size asked for.
    rest = [
        length - ((place - 1) * step - 2 * pad + gap * (cell - 1) + 1)
        for place, (length, cell, gap, pad, step) in zip(places, axes, strict=True)
    ]
    return functional.conv_transpose2d(
        input.reshape(input.shape[0], input.shape[1], *places),
        one_hot(channels, cells, input),
        None,
        steps,
        pads,
        tuple(rest),
        groups=channels,
        dilation=spread,
    )


def one_hot(channels: int, cells: tuple[int, int], like: torch.Tensor) -> torch.Tensor:
    """Kernels [channels * cells, 1, rows, columns], each with a single one, in the order of `unfold`."""
    count = cells[0] * cells[1]
    return torch.eye(count, dtype=like.dtype).reshape(count, 1, *cells).repeat(channels, 1, 1, 1)


def pair(value: Any) -> tuple[int, int]:
    """(rows, columns) of one number or two."""
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


class FlatLinears(TorchFunctionMode):
    """Linear layers over more than three dimensions run over two, and their outputs get the shape back.

    The same sums in the same order. LiteRT's converter makes a matrix product of a linear layer over four
    dimensions that its own checks refuse ("expected 3 but got 4").
    """

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        values = dict(zip(("input", "weight", "bias"), args, strict=False)) | (kwargs or {})
        if function is not functional.linear or values["input"].ndim <= MAX_LINEAR_DIMENSIONS:
            return function(*args, **(kwargs or {}))
        given = values.pop("input")
        flat: torch.Tensor = function(given.flatten(0, -2), **values)
        return flat.reshape(*given.shape[:-1], flat.shape[-1])
