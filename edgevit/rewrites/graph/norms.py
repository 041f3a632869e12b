"""LayerNorms that a graph spells out, as one operation each.

Exporters before opset 17, and people who write their own, spell a norm as nine operations. Its squares overflow
in float16, int8 rounds each of its parts, and neither compilers nor what looks for residual streams know it.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from edgevit.rewrites.graph.values import constant, integer, integers, maker, scalar, shape_of


def fuse_norms(model: ir.Model) -> int:
    """Write each norm over the last axis as LayerNormalization, in place; how many were. Shapes must be known."""
    graph, count = model.graph, 0
    for node in [each for each in graph if each.op_type in ("Div", "Mul")]:
        found = normalised(node)
        if found is None:
            continue
        x, epsilon = found
        width = (shape_of(x) or (0,))[-1]
        last, scale = followed(node, "Mul", width)
        last, shift = followed(last, "Add", width)
        name = str(node.outputs[0].name)
        inputs = [
            x,
            ir.Value(
                name=f"{name}_scale", const_value=ir.tensor(scale if scale is not None else ones(width))
            ),
        ]
        if shift is not None:
            inputs.append(ir.Value(name=f"{name}_shift", const_value=ir.tensor(shift)))
        for each in inputs[1:]:
            graph.register_initializer(each)
        norm = ir.node("LayerNormalization", inputs, {"axis": -1, "epsilon": epsilon}, name=node.name)
        out, made = last.outputs[0], norm.outputs[0]
        made.shape, made.type, made.name = out.shape, out.type, out.name
        graph.insert_before(last, norm)
        out.name = f"{out.name}_spelt"
        ir.convenience.replace_all_uses_with(out, made, replace_graph_outputs=True)
        count += 1
    if count:
        RemoveUnusedNodesPass()(model)
    return count


def fold_norms_of_one(model: ir.Model) -> int:
    """Write each norm over a single value, which is its bias whatever the value, as a constant, in place; how many.

    ONNX Runtime refuses such a norm. CSATv2 has one over the single channel of its spatial attention.
    """
    graph, count = model.graph, 0
    for node in [each for each in graph if each.op_type == "LayerNormalization"]:
        shape, axis = shape_of(node.inputs[0]), integer(node, "axis", -1)
        bias = constant(node.inputs[2]) if len(node.inputs) > 2 else np.zeros(1, np.float32)
        if shape is None or bias is None or any(length != 1 for length in shape[axis:]):
            continue
        out = node.outputs[0]
        if out.is_graph_output() or any(each.uses() for each in node.outputs[1:]):
            continue
        filled = np.ascontiguousarray(np.broadcast_to(bias.reshape(-1), shape), dtype=np.float32)
        made = ir.Value(name=f"{out.name}_constant", const_value=ir.tensor(filled))
        graph.register_initializer(made)
        ir.convenience.replace_all_uses_with(out, made)
        count += 1
    if count:
        RemoveUnusedNodesPass()(model)
    return count


def ones(width: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """The factors of a norm that has none."""
    return np.ones(width, np.float32)


def normalised(node: ir.Node) -> tuple[ir.Value, float] | None:
    """x and epsilon, where a node is (x - mean) / sqrt(variance + epsilon) over the last axis."""
    for deviation, other in (node.inputs, reversed(node.inputs)):
        root = other if node.op_type == "Div" else argument(other, "Reciprocal")
        root = divided_one(other) if root is None and node.op_type == "Mul" else root
        power = argument(root, "Sqrt")
        found = None if power is None else added(power)
        x = centred(deviation)
        if found is not None and x is not None and squares_of(mean_of(found[0])) == x:
            return x, found[1]
        if node.op_type == "Div":
            return None
    return None


def argument(value: ir.Value | None, kind: str) -> ir.Value | None:
    """What an operation of one input was given, where this kind makes the value."""
    node = maker(value, kind)
    return None if node is None else node.inputs[0]


def divided_one(value: ir.Value | None) -> ir.Value | None:
    """d, where a value is 1 / d."""
    node = maker(value, "Div")
    return node.inputs[1] if node is not None and scalar(node.inputs[0]) == 1.0 else None


def added(value: ir.Value) -> tuple[ir.Value, float] | None:
    """(y, number), where a value is y + number."""
    node = maker(value, "Add")
    for one, other in () if node is None else (node.inputs, reversed(node.inputs)):
        number = scalar(other)
        if number is not None and one is not None:
            return one, number
    return None


def mean_of(value: ir.Value | None) -> ir.Value | None:
    """What a value is the mean of, over the last axis, which stays."""
    node = maker(value, "ReduceMean")
    if node is None or node.inputs[0] is None or not integer(node, "keepdims", 1):
        return None
    given = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    axes = integers(node, "axes", ()) if given is None else [int(each) for each in given.reshape(-1)]
    rank = len(shape_of(node.inputs[0]) or ())
    return node.inputs[0] if rank and axes in ([-1], [rank - 1]) else None


def centred(value: ir.Value | None) -> ir.Value | None:
    """x, where a value is x minus its mean over the last axis."""
    node = maker(value, "Sub")
    if node is None or node.inputs[0] is None:
        return None
    return node.inputs[0] if mean_of(node.inputs[1]) is node.inputs[0] else None


def squares_of(value: ir.Value | None) -> ir.Value | None:
    """x, where a value is the squares of x minus its mean."""
    node = maker(value, "Mul", "Pow")
    if node is None:
        return None
    if node.op_type == "Pow":
        return centred(node.inputs[0]) if scalar(node.inputs[1]) == 2.0 else None
    one, other = (centred(each) for each in node.inputs)
    return one if one is other else None


def followed(
    node: ir.Node, kind: str, width: int
) -> tuple[ir.Node, np.ndarray[tuple[int, ...], np.dtype[np.float32]] | None]:
    """The one reader of a node and its constant [width], where it is of a kind; else the node itself, None."""
    out = node.outputs[0]
    readers = list(out.uses())
    if len(readers) != 1 or out.is_graph_output() or readers[0].node.op_type != kind:
        return node, None
    reader = readers[0].node
    known = next((constant(each) for each in reader.inputs if each is not out), None)
    if known is None or known.size not in (1, width) or (known.ndim and known.shape[-1] != known.size):
        return node, None
    return reader, np.ascontiguousarray(np.broadcast_to(known.reshape(-1), (width,)), np.float32)
