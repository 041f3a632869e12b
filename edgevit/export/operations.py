"""What each ONNX operation computes, in torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from onnx import numpy_helper
from torch.nn import functional

from edgevit.errors import EdgevitError

Tensor = torch.Tensor
Attributes = Mapping[str, Any]


def ints(value: Any) -> list[int]:
    """A constant of integers, as an array or a tensor."""
    return [int(each) for each in np.asarray(value).reshape(-1)]


def axes_of(given: Sequence[Any], attributes: Attributes, position: int = 1) -> list[int] | None:
    """Axes as an input of later opsets, or as an attribute of earlier ones."""
    if len(given) > position and given[position] is not None:
        return ints(given[position])
    return list(attributes["axes"]) if "axes" in attributes else None


def reduced(how: Callable[..., Tensor]) -> Callable[[Sequence[Any], Attributes], Tensor]:
    """A reduction over axes."""

    def run(given: Sequence[Any], attributes: Attributes) -> Tensor:
        axes = axes_of(given, attributes) or list(range(given[0].ndim))
        return how(given[0], tuple(axes), bool(attributes.get("keepdims", 1)))

    return run


def padded(value: Tensor, attributes: Attributes, fill: float = 0.0) -> Tensor:
    """An image with the borders of a convolution or pool around it."""
    pads = list(attributes.get("pads", [0, 0, 0, 0]))
    if not any(pads):
        return value
    half = len(pads) // 2
    sides = [pads[axis + half * end] for axis in reversed(range(half)) for end in (0, 1)]
    return functional.pad(value, sides, value=fill)


def convolution(given: Sequence[Any], attributes: Attributes) -> Any:
    x, weight, bias = given[0], given[1], given[2] if len(given) > 2 else None
    flat = weight.ndim == 3
    run = functional.conv1d if flat else functional.conv2d
    ones = [1] * (weight.ndim - 2)
    return run(
        padded(x, attributes),
        weight,
        bias,
        attributes.get("strides", ones),
        0,
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
    ceil = bool(attributes.get("ceil_mode", 0))
    if largest:
        return functional.max_pool2d(padded(given[0], attributes, -math.inf), kernel, strides, ceil_mode=ceil)
    means = functional.avg_pool2d(padded(given[0], attributes), kernel, strides, ceil_mode=ceil)
    if attributes.get("count_include_pad", 0) or not any(attributes.get("pads", [0])):
        return means
    inside = functional.avg_pool2d(
        padded(torch.ones_like(given[0]), attributes), kernel, strides, ceil_mode=ceil
    )
    return means / inside


def normalised(given: Sequence[Any], attributes: Attributes) -> Any:
    x, axis = given[0], int(attributes.get("axis", -1)) % given[0].ndim
    bias = given[2] if len(given) > 2 else None
    return functional.layer_norm(x, x.shape[axis:], given[1], bias, float(attributes.get("epsilon", 1e-5)))


def batch_normalised(given: Sequence[Any], attributes: Attributes) -> Any:
    x, scale, shift, mean, variance = given[:5]
    sizes = [-1, *[1] * (x.ndim - 2)]
    factor = scale / torch.sqrt(variance + float(attributes.get("epsilon", 1e-5)))
    return x * factor.reshape(sizes) + (shift - mean * factor).reshape(sizes)


def instance_normalised(given: Sequence[Any], attributes: Attributes) -> Any:
    x, scale, shift = given
    axes, sizes = tuple(range(2, x.ndim)), [-1, *[1] * (x.ndim - 2)]
    centred = x - x.mean(axes, keepdim=True)
    spread = torch.sqrt(centred.square().mean(axes, keepdim=True) + float(attributes.get("epsilon", 1e-5)))
    return centred / spread * scale.reshape(sizes) + shift.reshape(sizes)


def matrix_product(given: Sequence[Any], attributes: Attributes) -> Any:
    a = given[0].T if attributes.get("transA", 0) else given[0]
    b = given[1].T if attributes.get("transB", 0) else given[1]
    product = float(attributes.get("alpha", 1.0)) * (a @ b)
    if len(given) < 3 or given[2] is None:
        return product
    return product + float(attributes.get("beta", 1.0)) * given[2]


def reshaped(given: Sequence[Any], attributes: Attributes) -> Any:
    sizes = ints(given[1])
    if not attributes.get("allowzero", 0):
        sizes = [given[0].shape[axis] if size == 0 else size for axis, size in enumerate(sizes)]
    return given[0].reshape(sizes)


def squeezed(given: Sequence[Any], attributes: Attributes) -> Any:
    axes = axes_of(given, attributes)
    return given[0].squeeze() if axes is None else given[0].squeeze(tuple(axes))


def unsqueezed(given: Sequence[Any], attributes: Attributes) -> Any:
    value, axes = given[0], axes_of(given, attributes) or []
    rank = value.ndim + len(axes)
    for axis in sorted(each % rank for each in axes):
        value = value.unsqueeze(axis)
    return value


def flattened(given: Sequence[Any], attributes: Attributes) -> Any:
    axis = int(attributes.get("axis", 1)) % (given[0].ndim + 1)
    return given[0].reshape(math.prod(given[0].shape[:axis]), -1)


def cut(given: Sequence[Any], attributes: Attributes) -> Any:
    value = given[0]
    starts, ends = ints(given[1]), ints(given[2])
    axes = ints(given[3]) if len(given) > 3 and given[3] is not None else list(range(len(starts)))
    steps = ints(given[4]) if len(given) > 4 and given[4] is not None else [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        chosen = list(range(value.shape[axis]))[slice(start, max(end, -(2**31)) if step > 0 else end, step)]
        value = value.index_select(axis, torch.tensor(chosen, dtype=torch.long))
    return value


def parts(given: Sequence[Any], attributes: Attributes) -> tuple[Tensor, ...]:
    axis = int(attributes.get("axis", 0))
    if len(given) > 1 and given[1] is not None:
        return tuple(given[0].split(ints(given[1]), axis))
    count = int(attributes["num_outputs"])
    return tuple(given[0].split(-(-given[0].shape[axis] // count), axis))


def gathered(given: Sequence[Any], attributes: Attributes) -> Any:
    axis, chosen = int(attributes.get("axis", 0)), np.asarray(given[1])
    if not isinstance(given[0], Tensor):
        return np.take(given[0], chosen, axis)
    axis %= given[0].ndim
    flat = torch.from_numpy(chosen.reshape(-1) % given[0].shape[axis]).long()
    shape = [*given[0].shape[:axis], *chosen.shape, *given[0].shape[axis + 1 :]]
    return given[0].index_select(axis, flat).reshape(shape)


def bordered(given: Sequence[Any], attributes: Attributes) -> Any:
    pads, half = ints(given[1]), len(ints(given[1])) // 2
    fill = float(given[2]) if len(given) > 2 and given[2] is not None else 0.0
    sides = [pads[axis + half * end] for axis in reversed(range(half)) for end in (0, 1)]
    mode = attributes.get("mode", b"constant").decode()
    return functional.pad(given[0], sides, mode=mode, **({"value": fill} if mode == "constant" else {}))


def clipped(given: Sequence[Any], attributes: Attributes) -> Any:
    ends = [given[position] if len(given) > position else None for position in (1, 2)]
    low, high = (None if end is None else float(end) for end in ends)
    low, high = attributes.get("min", low), attributes.get("max", high)
    return given[0].clamp(low, high)


def simple(how: Callable[..., Tensor]) -> Callable[[Sequence[Any], Attributes], Tensor]:
    """An operation on its inputs alone."""
    return lambda given, attributes: how(*given)


def gelu(given: Sequence[Any], attributes: Attributes) -> Any:
    return functional.gelu(given[0], approximate=attributes.get("approximate", b"none").decode())


def constant(given: Sequence[Any], attributes: Attributes) -> Any:
    array = numpy_helper.to_array(attributes["value"])
    return torch.from_numpy(np.array(array)) if array.dtype == np.float32 else array


def resized(given: Sequence[Any], attributes: Attributes) -> Any:
    """Every axis on its own, by a matrix of the weights that ONNX defines for it."""
    value = given[0]
    scales = np.asarray(given[2]).reshape(-1) if len(given) > 2 and given[2] is not None else np.empty(0)
    sizes = ints(given[3]) if len(given) > 3 and given[3] is not None else []
    axes = list(attributes.get("axes", range(value.ndim)))
    for place, axis in enumerate(axes):
        length = value.shape[axis]
        size = sizes[place] if sizes else int(math.floor(length * float(scales[place])))
        factor = float(scales[place]) if len(scales) else size / length
        if size == length and factor == 1:
            continue
        weights = torch.from_numpy(resizing(length, size, factor, attributes))
        value = (value.movedim(axis, -1) @ weights.T).movedim(-1, axis)
    return value


def cubic(distance: npt.NDArray[np.float64], a: float) -> npt.NDArray[np.float64]:
    """The cubic convolution's weight at a distance of up to two (Keys 1981)."""
    near = (a + 2) * distance**3 - (a + 3) * distance**2 + 1
    return np.where(distance <= 1, near, a * (distance**3 - 5 * distance**2 + 8 * distance - 4))


def resizing(length: int, size: int, factor: float, attributes: Attributes) -> npt.NDArray[np.float32]:
    """Weights [size, length] of an axis that is resized (ONNX Resize, opset 19)."""
    mode = attributes.get("mode", b"nearest").decode()
    way = attributes.get("coordinate_transformation_mode", b"half_pixel").decode()
    places = np.arange(size, dtype=np.float64)
    if way == "align_corners":
        places = places * (length - 1) / max(size - 1, 1)
    elif way == "asymmetric":
        places = places / factor
    elif way == "pytorch_half_pixel" and size == 1:
        places = np.zeros(1)
    elif way in ("half_pixel", "pytorch_half_pixel"):
        places = (places + 0.5) / factor - 0.5
    else:
        raise EdgevitError(
            "cannot compute the graph step by step", f"it resizes by {way}", "Report the model"
        )
    found = np.zeros((size, length))
    if mode == "nearest":
        rounding = attributes.get("nearest_mode", b"round_prefer_floor").decode()
        how: dict[str, Callable[[Any], Any]] = {
            "round_prefer_floor": lambda x: np.ceil(x - 0.5),
            "round_prefer_ceil": lambda x: np.floor(x + 0.5),
            "floor": np.floor,
            "ceil": np.ceil,
        }
        chosen = np.clip(how[rounding](places), 0, length - 1).astype(int)
        found[np.arange(size), chosen] = 1
        return found.astype(np.float32)
    below = np.floor(places)
    share = places - below
    if mode == "linear":
        taps = {0: 1 - share, 1: share}
    else:
        a = float(attributes.get("cubic_coeff_a", -0.75))
        taps = {offset: cubic(np.abs(share - offset), a) for offset in (-1, 0, 1, 2)}
    for offset, weight in taps.items():
        np.add.at(found, (np.arange(size), np.clip(below + offset, 0, length - 1).astype(int)), weight)
    return found.astype(np.float32)


OPERATIONS: dict[str, Callable[[Sequence[Any], Attributes], Any]] = {
    "Add": simple(torch.add),
    "Sub": simple(torch.sub),
    "Mul": simple(torch.mul),
    "Div": simple(torch.div),
    "Pow": simple(torch.pow),
    "Max": simple(torch.maximum),
    "Min": simple(torch.minimum),
    "MatMul": simple(torch.matmul),
    "Sqrt": simple(torch.sqrt),
    "Reciprocal": simple(torch.reciprocal),
    "Neg": simple(torch.neg),
    "Abs": simple(torch.abs),
    "Exp": simple(torch.exp),
    "Log": simple(torch.log),
    "Erf": simple(torch.erf),
    "Tanh": simple(torch.tanh),
    "Sigmoid": simple(torch.sigmoid),
    "Relu": simple(torch.relu),
    "Softplus": simple(functional.softplus),
    "Mish": simple(functional.mish),
    "HardSwish": simple(functional.hardswish),
    "Identity": simple(lambda value: value),
    "Cast": simple(lambda value: value),
    "Gelu": gelu,
    "Elu": lambda given, attributes: functional.elu(given[0], float(attributes.get("alpha", 1.0))),
    "LeakyRelu": lambda given, attributes: functional.leaky_relu(
        given[0], float(attributes.get("alpha", 0.01))
    ),
    "HardSigmoid": lambda given, attributes: (
        float(attributes.get("alpha", 0.2)) * given[0] + float(attributes.get("beta", 0.5))
    ).clamp(0, 1),
    "Clip": clipped,
    "Softmax": lambda given, attributes: given[0].softmax(int(attributes.get("axis", -1))),
    "LayerNormalization": normalised,
    "BatchNormalization": batch_normalised,
    "InstanceNormalization": instance_normalised,
    "ReduceMean": reduced(lambda value, axes, keep: value.mean(axes, keep)),
    "ReduceSum": reduced(lambda value, axes, keep: value.sum(axes, keep)),
    "ReduceMax": reduced(lambda value, axes, keep: value.amax(axes, keep)),
    "ReduceMin": reduced(lambda value, axes, keep: value.amin(axes, keep)),
    "ReduceL1": reduced(lambda value, axes, keep: value.abs().sum(axes, keep)),
    "ReduceL2": reduced(lambda value, axes, keep: value.square().sum(axes, keep).sqrt()),
    "GlobalAveragePool": lambda given, attributes: given[0].mean(tuple(range(2, given[0].ndim)), True),
    "GlobalMaxPool": lambda given, attributes: given[0].amax(tuple(range(2, given[0].ndim)), True),
    "AveragePool": lambda given, attributes: pooled(given, attributes, largest=False),
    "MaxPool": lambda given, attributes: pooled(given, attributes, largest=True),
    "Conv": convolution,
    "ConvTranspose": transposed_convolution,
    "Gemm": matrix_product,
    "Resize": resized,
    "Reshape": reshaped,
    "Transpose": lambda given, attributes: given[0].permute(
        *attributes.get("perm", list(range(given[0].ndim))[::-1])
    ),
    "Squeeze": squeezed,
    "Unsqueeze": unsqueezed,
    "Flatten": flattened,
    "Split": parts,
    "Slice": cut,
    "Concat": lambda given, attributes: torch.cat(list(given), int(attributes["axis"])),
    "Gather": gathered,
    "Expand": lambda given, attributes: given[0] * torch.ones(ints(given[1])),
    "Pad": bordered,
    "Where": simple(lambda condition, yes, no: torch.where(torch.as_tensor(condition), yes, no)),
    "Constant": constant,
    "Tile": lambda given, attributes: given[0].repeat(*ints(given[1])),
}
