"""Convolutions, pools and other windows over an image, as ONNX defines them, in torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

from edgevit.export.operands import Attributes, Tensor, sides_of


def pads_of(sizes: Sequence[int], kernel: Sequence[int], attributes: Attributes) -> list[int]:
    """The borders of a convolution or pool over axes of these sizes: those before each axis, then those after."""
    way = attributes.get("auto_pad", b"NOTSET").decode()
    if not way.startswith("SAME"):
        return list(attributes.get("pads", [0] * 2 * len(sizes)))
    ones = [1] * len(sizes)
    axes = zip(sizes, kernel, attributes.get("strides", ones), attributes.get("dilations", ones), strict=True)
    whole = [
        max(0, (-(-size // step) - 1) * step + gap * (cell - 1) + 1 - size) for size, cell, step, gap in axes
    ]
    less, more = [each // 2 for each in whole], [each - each // 2 for each in whole]
    return less + more if way == "SAME_UPPER" else more + less


def padded(value: Tensor, pads: Sequence[int], fill: float = 0.0) -> Tensor:
    """An image with the borders of a convolution or pool around it."""
    if not any(pads):
        return value
    return functional.pad(value, sides_of(pads), value=fill)


def convolution(given: Sequence[Any], attributes: Attributes) -> Any:
    x, weight, bias = given[0], given[1], given[2] if len(given) > 2 else None
    flat = weight.ndim == 3
    run = functional.conv1d if flat else functional.conv2d
    ones = [1] * (weight.ndim - 2)
    pads = pads_of(x.shape[2:], weight.shape[2:], attributes)
    even = pads[: len(ones)] == pads[len(ones) :]
    return run(
        x if even else padded(x, pads),
        weight,
        bias,
        attributes.get("strides", ones),
        pads[: len(ones)] if even else 0,
        attributes.get("dilations", ones),
        int(attributes.get("group", 1)),
    )


def transposed_convolution(given: Sequence[Any], attributes: Attributes) -> Any:
    pads = list(attributes.get("pads", [0, 0, 0, 0]))
    more = [end - begin for begin, end in zip(pads[:2], pads[2:], strict=True)]
    rest = [extra - each for extra, each in zip(attributes.get("output_padding", [0, 0]), more, strict=True)]
    return functional.conv_transpose2d(
        given[0],
        given[1],
        given[2] if len(given) > 2 else None,
        attributes.get("strides", [1, 1]),
        pads[:2],
        rest,
        int(attributes.get("group", 1)),
        attributes.get("dilations", [1, 1]),
    )


def pooled(given: Sequence[Any], attributes: Attributes, *, largest: bool) -> Any:
    kernel, strides = (
        attributes["kernel_shape"],
        attributes.get("strides", [1] * len(attributes["kernel_shape"])),
    )
    ceil, pads = bool(attributes.get("ceil_mode", 0)), pads_of(given[0].shape[2:], kernel, attributes)
    if largest:
        return functional.max_pool2d(padded(given[0], pads, -math.inf), kernel, strides, ceil_mode=ceil)
    means = functional.avg_pool2d(padded(given[0], pads), kernel, strides, ceil_mode=ceil)
    if attributes.get("count_include_pad", 0) or not any(pads):
        return means
    inside = functional.avg_pool2d(padded(torch.ones_like(given[0]), pads), kernel, strides, ceil_mode=ceil)
    return means / inside


def depth_to_space(given: Sequence[Any], attributes: Attributes) -> Any:
    """Channels to blocks of places, in ONNX's order of axes for each mode."""
    value, block = given[0], int(attributes["blocksize"])
    n, channels, height, width = value.shape
    if attributes.get("mode", b"DCR") == b"CRD":
        parts = value.reshape(n, channels // block**2, block, block, height, width).permute(0, 1, 4, 2, 5, 3)
    else:
        parts = value.reshape(n, block, block, channels // block**2, height, width).permute(0, 3, 4, 1, 5, 2)
    return parts.reshape(n, channels // block**2, height * block, width * block)


def space_to_depth(given: Sequence[Any], attributes: Attributes) -> Any:
    """Blocks of places to channels."""
    value, block = given[0], int(attributes["blocksize"])
    n, channels, height, width = value.shape
    parts = value.reshape(n, channels, height // block, block, width // block, block).permute(
        0, 3, 5, 1, 2, 4
    )
    return parts.reshape(n, channels * block**2, height // block, width // block)
