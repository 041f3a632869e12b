"""What each ONNX operation computes, in torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from onnx import helper, numpy_helper
from torch.nn import functional

from edgevit.any_threads import softmax
from edgevit.export.convolutions import (
    convolution,
    depth_to_space,
    pooled,
    space_to_depth,
    transposed_convolution,
)
from edgevit.export.indexing import (
    extreme_place,
    gathered_anywhere,
    gathered_elements,
    largest,
    sampled,
    scattered,
    scattered_elements,
)
from edgevit.export.operands import Attributes, Tensor, as_tensor, ints, sides_of
from edgevit.export.resizing import resized


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
    factors = [float(attributes.get(name, 1.0)) for name in ("alpha", "beta")]
    bias = given[2] if len(given) > 2 else None
    weight = given[1] if attributes.get("transB", 0) else given[1].T
    whole = bias is None or tuple(bias.shape) == (len(weight),)
    if factors == [1, 1] and not attributes.get("transA", 0) and whole:
        return functional.linear(given[0], weight, bias)
    a = given[0].T if attributes.get("transA", 0) else given[0]
    product = factors[0] * (a @ weight.T)
    return product if bias is None else product + factors[1] * bias


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
    axis = int(attributes.get("axis", 1))
    axis += given[0].ndim if axis < 0 else 0
    return given[0].reshape(math.prod(given[0].shape[:axis]), -1)


def cut(given: Sequence[Any], attributes: Attributes) -> Any:
    value = given[0]
    starts, ends = ints(given[1]), ints(given[2])
    axes = ints(given[3]) if len(given) > 3 and given[3] is not None else list(range(len(starts)))
    steps = ints(given[4]) if len(given) > 4 and given[4] is not None else [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        chosen = range(value.shape[axis])[slice(start, max(end, -(2**31)) if step > 0 else end, step)]
        if step > 1 and len(chosen):
            value = value[(slice(None),) * (axis % value.ndim) + (slice(chosen[0], chosen[-1] + 1, step),)]
        else:
            value = picked(value, axis, chosen)
    return value


def parts(given: Sequence[Any], attributes: Attributes) -> tuple[Tensor, ...]:
    axis = int(attributes.get("axis", 0))
    if len(given) > 1 and given[1] is not None:
        return tuple(given[0].split(ints(given[1]), axis))
    if "split" in attributes:  # before opset 13
        return tuple(given[0].split(list(attributes["split"]), axis))
    count = int(attributes["num_outputs"])
    return tuple(given[0].split(-(-given[0].shape[axis] // count), axis))


def gathered(given: Sequence[Any], attributes: Attributes) -> Any:
    axis = int(attributes.get("axis", 0))
    if isinstance(given[1], Tensor):
        return gathered_anywhere(given[0], axis, given[1])
    chosen = np.asarray(given[1])
    if not isinstance(given[0], Tensor):
        return np.take(given[0], chosen, axis)
    axis %= given[0].ndim
    shape = [*given[0].shape[:axis], *chosen.shape, *given[0].shape[axis + 1 :]]
    return picked(given[0], axis, ints(chosen % given[0].shape[axis])).reshape(shape)


def picked(value: Tensor, axis: int, chosen: Sequence[int]) -> Tensor:
    """These places of an axis; neighbours as a slice, which compilers run and gather they may not."""
    if len(chosen) and list(chosen) == list(range(chosen[0], chosen[0] + len(chosen))):
        return value.narrow(axis, chosen[0], len(chosen))
    return value.index_select(axis, as_tensor(np.asarray(chosen, np.int64)))


def bordered(given: Sequence[Any], attributes: Attributes) -> Any:
    fill = float(given[2]) if len(given) > 2 and given[2] is not None else 0.0
    mode = attributes.get("mode", b"constant").decode()
    return functional.pad(
        given[0], sides_of(ints(given[1])), mode=mode, **({"value": fill} if mode == "constant" else {})
    )


def clipped(given: Sequence[Any], attributes: Attributes) -> Any:
    ends = [given[position] if len(given) > position else None for position in (1, 2)]
    low, high = (None if end is None else float(end) for end in ends)
    low, high = attributes.get("min", low), attributes.get("max", high)
    return given[0].clamp(low, high)


def simple(how: Callable[..., Tensor]) -> Callable[[Sequence[Any], Attributes], Tensor]:
    """An operation on its inputs alone, constants among them."""
    return lambda given, attributes: how(*map(as_tensor, given))


def gelu(given: Sequence[Any], attributes: Attributes) -> Any:
    return functional.gelu(given[0], approximate=attributes.get("approximate", b"none").decode())


def cast(given: Sequence[Any], attributes: Attributes) -> Any:
    """Real numbers are float32 here, whatever their length; whole numbers that no image decides are arrays."""
    value = given[0]
    kind = helper.tensor_dtype_to_np_dtype(int(attributes["to"]))
    if not np.issubdtype(kind, np.integer) and kind != np.bool_:
        return value.float() if isinstance(value, Tensor) else as_tensor(value.astype(np.float32))
    return (
        value.to(torch.bool if kind == np.bool_ else torch.long)
        if isinstance(value, Tensor)
        else value.astype(kind)
    )


def constant(given: Sequence[Any], attributes: Attributes) -> Any:
    array = numpy_helper.to_array(attributes["value"])
    return torch.from_numpy(np.array(array)) if array.dtype == np.float32 else array


def scaled_elu(value: Tensor, attributes: Attributes) -> Tensor:
    """ONNX Selu with its own constants."""
    alpha = float(attributes.get("alpha", 1.67326319217681884765625))
    return float(attributes.get("gamma", 1.05070102214813232421875)) * functional.elu(value, alpha)


def group_normalised(given: Sequence[Any], attributes: Attributes) -> Any:
    """ONNX GroupNormalization of opset 21: a factor and a shift a channel."""
    groups, epsilon = int(attributes["num_groups"]), float(attributes.get("epsilon", 1e-5))
    return functional.group_norm(given[0], groups, given[1], given[2], epsilon)


OPERATIONS: dict[str, Callable[[Sequence[Any], Attributes], Any]] = {
    "Add": simple(torch.add),
    "Sub": simple(torch.sub),
    "Mul": simple(torch.mul),
    "Div": simple(torch.div),
    "Pow": simple(torch.pow),
    "Max": simple(torch.maximum),
    "Min": simple(torch.minimum),
    "MatMul": simple(torch.matmul),
    "Linear": lambda given, attributes: functional.linear(*given),  # edgevit's own: [outputs, inputs]
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
    "Cast": cast,
    "Gelu": gelu,
    "Elu": lambda given, attributes: functional.elu(given[0], float(attributes.get("alpha", 1.0))),
    "LeakyRelu": lambda given, attributes: functional.leaky_relu(
        given[0], float(attributes.get("alpha", 0.01))
    ),
    "HardSigmoid": lambda given, attributes: (
        float(attributes.get("alpha", 0.2)) * given[0] + float(attributes.get("beta", 0.5))
    ).clamp(0, 1),
    "Clip": clipped,
    "Softmax": lambda given, attributes: softmax(given[0], int(attributes.get("axis", -1))),
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
    "GatherElements": gathered_elements,
    "ScatterElements": scattered_elements,
    "ScatterND": scattered,
    "GridSample": sampled,
    "TopK": largest,
    "ArgMax": extreme_place(torch.argmax),
    "ArgMin": extreme_place(torch.argmin),
    "Expand": lambda given, attributes: given[0].expand(
        np.broadcast_shapes(given[0].shape, tuple(ints(given[1])))
    ),
    "Pad": bordered,
    "Where": simple(torch.where),
    "Constant": constant,
    "Sin": simple(torch.sin),
    "Cos": simple(torch.cos),
    "Floor": simple(torch.floor),
    "Ceil": simple(torch.ceil),
    "Round": simple(torch.round),
    "Sign": simple(torch.sign),
    "Softsign": simple(functional.softsign),
    "PRelu": simple(lambda value, slope: torch.where(value < 0, slope * value, value)),
    "Selu": lambda given, attributes: scaled_elu(given[0], attributes),
    "Celu": lambda given, attributes: functional.celu(given[0], float(attributes.get("alpha", 1.0))),
    "LogSoftmax": lambda given, attributes: given[0].log_softmax(int(attributes.get("axis", -1))),
    "Sum": lambda given, attributes: sum(given[1:], start=given[0]),
    "Mean": lambda given, attributes: sum(given[1:], start=given[0]) / len(given),
    "ReduceSumSquare": reduced(lambda value, axes, keep: value.square().sum(axes, keep)),
    "GroupNormalization": group_normalised,
    "DepthToSpace": depth_to_space,
    "SpaceToDepth": space_to_depth,
    "Einsum": lambda given, attributes: torch.einsum(attributes["equation"].decode(), *given),
    "Greater": simple(torch.gt),
    "Less": simple(torch.lt),
    "GreaterOrEqual": simple(torch.ge),
    "LessOrEqual": simple(torch.le),
    "And": simple(torch.logical_and),
    "Or": simple(torch.logical_or),
    "Equal": simple(torch.eq),
    "IsNaN": simple(torch.isnan),
    "Not": simple(torch.logical_not),
    "Tile": lambda given, attributes: given[0].repeat(*ints(given[1])),
}
