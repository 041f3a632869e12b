"""Operations that treat every token alike, over tokens [1, tokens, channels] whatever they were written for."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from edgevit.rewrites.graph.tokens import ELEMENTWISE, insert_before, register
from edgevit.rewrites.graph.values import constant, integer, maker, shape_of


def flatten_rows(graph: ir.Graph) -> int:
    """Run norms, and what follows a layer over tokens value by value, over [1, tokens, channels]; how many changed.

    NPUs hold tokens as one row of pixels: other axes beside it cost moves. The graph is changed in place.
    """
    changed = 0
    for node in list(graph):
        shape = shape_of(node.outputs[0])
        if shape is None or len(shape) < 3 or len(node.outputs) > 1 or node.domain != "":
            continue
        rows = (1, math.prod(shape[:-1]), shape[-1])
        if rows[1] > 1 and shape != rows and (is_norm(node, shape) or follows_rows(node, shape, rows)):
            flatten(graph, node, shape, rows)
            changed += 1
    return changed


def is_norm(node: ir.Node, shape: tuple[int, ...]) -> bool:
    """Whether a node normalises over channels."""
    return node.op_type == "LayerNormalization" and integer(node, "axis", -1) % len(shape) == len(shape) - 1


def follows_rows(node: ir.Node, shape: tuple[int, ...], rows: tuple[int, ...]) -> bool:
    """Whether a node works value by value on what was tokens just before; all else is as large, or a channel's."""
    if node.op_type not in ELEMENTWISE:
        return False
    computed = [each for each in node.inputs if each is not None and constant(each) is None]
    same = all(shape_of(each) == shape for each in computed)
    added = [constant(each) for each in node.inputs if each is not None and constant(each) is not None]
    whole = all(
        each is not None and (each.shape == shape or each.size in (1, *each.shape[-1:])) for each in added
    )
    return same and whole and any(flat_source(each, rows) is not None for each in computed)


def flat_source(value: ir.Value, rows: tuple[int, ...]) -> ir.Value | None:
    """The tokens [1, tokens, channels] that a value is another shape of."""
    node = maker(value, "Reshape")
    return node.inputs[0] if node is not None and shape_of(node.inputs[0]) == rows else None


def flatten(graph: ir.Graph, node: ir.Node, shape: tuple[int, ...], rows: tuple[int, ...]) -> None:
    """Have a node work on tokens, with a reshape behind it."""
    output = node.outputs[0]
    for number, each in enumerate(node.inputs):
        if each is None or shape_of(each) != shape:
            continue
        flat = flat_source(each, rows)
        if flat is None:
            name = f"{output.name}_rows_{number}"
            flat = insert_before(
                node, "Reshape", [each, register(graph, f"{name}_sizes", np.asarray(rows, np.int64))], name
            )
            flat.shape, flat.type = ir.Shape(rows), each.type
        node.replace_input_with(number, flat)
    users = list(output.uses())
    sizes = register(graph, f"{output.name}_whole_sizes", np.asarray(shape, np.int64))
    again = ir.Node("", "Reshape", [output, sizes], num_outputs=1)
    again.outputs[0].name = f"{output.name}_whole"
    again.outputs[0].shape, again.outputs[0].type = ir.Shape(shape), output.type
    graph.insert_after(node, again)
    for user, number in users:
        user.replace_input_with(number, again.outputs[0])
    output.shape = ir.Shape(rows)
