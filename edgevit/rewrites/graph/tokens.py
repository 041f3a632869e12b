"""Which axis of each tensor counts tokens, and graphs with more of them, or fewer.

Most of a transformer treats every token alike. There an axis can be followed from tensor to tensor, and every size
on it changed: filled up to a count that an NPU can transpose, or cut down to the tokens that are read in the end.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from edgevit.rewrites.graph.values import Array, constant, integer, integers, shape_of
from edgevit.rewrites.graph.views import slices

ELEMENTWISE = frozenset({
    "Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "Sqrt", "Reciprocal", "Neg", "Abs", "Exp", "Log", "Erf",
    "Tanh", "Sigmoid", "Relu", "Elu", "LeakyRelu", "HardSwish", "HardSigmoid", "Softplus", "Mish", "Gelu", "Clip",
    "Cast", "Identity",
})  # fmt: skip
RESHAPES = ("Reshape", "Squeeze", "Unsqueeze", "Flatten")
REDUCTIONS = ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceL1", "ReduceL2")


def axes_read(node: ir.Node, axis: int) -> list[int | None] | None:
    """The axis of each input that an axis of a node's outputs stems from, position by position.

    None in the list for an input that is the same for all positions; None alone where positions mix.
    """
    shape, shapes = shape_of(node.outputs[0]), [shape_of(each) for each in node.inputs]
    kind, first = node.op_type, shapes[0] if shapes else None
    if node.domain != "" or shape is None or first is None:
        return None
    rest: list[int | None] = [None] * (len(shapes) - 1)
    if kind in ELEMENTWISE:
        return [aligned(axis, len(shape), each) for each in shapes]
    if kind == "LayerNormalization":
        return [axis, *rest] if axis < integer(node, "axis", -1) % len(shape) else None
    if kind == "Softmax":
        return [axis] if axis != integer(node, "axis", -1) % len(shape) else None
    if kind == "MatMul" and shapes[1] is not None and len(first) > 1 and len(shapes[1]) > 1:
        second = shapes[1]
        if axis == len(shape) - 1:
            return [None, len(second) - 1]
        return [
            aligned(axis, len(shape), first),
            None if axis == len(shape) - 2 else aligned(axis, len(shape), second),
        ]
    if kind == "Gemm":
        return [0, *rest] if axis == 0 and not integer(node, "transA", 0) and one_row(shapes[2:]) else None
    if kind in RESHAPES:
        before = reshaped_axis(first, shape, axis)
        return None if before is None else [before, *rest]
    if kind == "Transpose":
        return [(integers(node, "perm", range(len(shape))[::-1]) or [])[axis]]
    if kind in ("Split", "Slice"):
        return None if changed_axes(node, first, axis) else [axis, *rest]
    if kind == "Concat":
        return None if axis == integer(node, "axis", 0) % len(shape) else [axis] * len(shapes)
    if kind == "Gather":
        along, chosen = integer(node, "axis", 0) % len(first), constant(node.inputs[1])
        if chosen is None or along <= axis < along + chosen.ndim:
            return None
        return [axis if axis < along else axis + 1 - chosen.ndim, None]
    if kind in REDUCTIONS and len(first) == len(shape):
        return [axis, *rest] if shape[axis] == first[axis] and first[axis] != 1 else None
    return None


def aligned(axis: int, rank: int, shape: tuple[int, ...] | None) -> int | None:
    """The axis of a broadcast operand beside an axis of the result; None where it is the same everywhere."""
    own = -1 if shape is None else axis - rank + len(shape)
    return own if own >= 0 and shape is not None and shape[own] != 1 else None


def one_row(shapes: Iterable[tuple[int, ...] | None]) -> bool:
    """Whether these are the same for every row."""
    return all(shape is not None and math.prod(shape) == shape[-1] for shape in shapes)


def reshaped_axis(before: tuple[int, ...], after: tuple[int, ...], axis: int) -> int | None:
    """The axis that a reshape keeps as it is."""
    for own, size in enumerate(before):
        if size == after[axis] and math.prod(before[:own]) == math.prod(after[:axis]):
            return own
    return None


def changed_axes(node: ir.Node, shape: tuple[int, ...], axis: int) -> bool:
    """Whether a Split or Slice acts on an axis, or it can't be told."""
    if node.op_type == "Split":
        return integer(node, "axis", 0) % len(shape) == axis
    cut = slices(node, len(shape))
    return cut is None or cut[axis] != slice(None)


def register(graph: ir.Graph, name: str, values: Array) -> ir.Value:
    """A constant of a graph, under this name or the next that is free."""
    while name in graph.initializers:
        name += "_"
    value = ir.Value(name=name, const_value=ir.tensor(np.ascontiguousarray(values), name=name))
    value.shape, value.dtype = ir.Shape(values.shape), ir.DataType.from_numpy(values.dtype)
    graph.register_initializer(value)
    return value


def replace_constant(node: ir.Node, number: int, values: Array) -> None:
    """Give a node a constant of its own."""
    graph = node.graph
    assert graph is not None and node.inputs[number] is not None
    name = f"{node.outputs[0].name}_constant_{number}"
    node.replace_input_with(number, register(graph, name, values))


def insert_before(node: ir.Node, kind: str, inputs: list[ir.Value], name: str, **attributes: int) -> ir.Value:
    """The output of a new node in front of another."""
    graph = node.graph
    assert graph is not None
    made = ir.Node(
        "",
        kind,
        inputs,
        attributes=[ir.AttrInt64(key, each) for key, each in attributes.items()],
        num_outputs=1,
    )
    made.outputs[0].name = name
    graph.insert_before(node, made)
    return made.outputs[0]


def first_rows(node: ir.Node, value: ir.Value, count: int, axis: int, name: str) -> ir.Value:
    """value[:count] along an axis, in front of a node."""
    graph = node.graph
    assert graph is not None
    wanted = (("from", 0), ("to", count), ("axis", axis))
    bounds = [register(graph, f"{name}_{key}", np.asarray([number], np.int64)) for key, number in wanted]
    return insert_before(node, "Slice", [value, *bounds], name)
