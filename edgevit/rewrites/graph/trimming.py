"""Only the tokens that are read in the end, as far back as nothing needs the others."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from edgevit.rewrites.graph.attention import core_of
from edgevit.rewrites.graph.tokens import axes_read, first_rows, replace_constant
from edgevit.rewrites.graph.values import constant, integer, shape_of
from edgevit.rewrites.graph.views import slices


class Need(NamedTuple):
    """What is read of a value: its first `rows` along `axis`; all of it where `axis` is None."""

    axis: int | None
    rows: int


ALL = Need(None, 0)


def trim_tokens(graph: ir.Graph, alignment: int = 1) -> int:
    """Compute what only leading tokens are read of for those alone, a multiple of `alignment`; how many attentions
    became smaller. The graph is changed in place, and only where an attention becomes smaller.
    """
    needs = needed(graph, alignment)
    trimmed = {node: axes for node in graph if (axes := axes_trimmed(node, needs)) is not None}
    smaller = [node for node in trimmed if node.op_type == "MatMul" and core_of(node.outputs[0])]
    if smaller:
        for node, axes in trimmed.items():
            trim(node, axes, needs, {each.outputs[0] for each in trimmed})
    return len(smaller)


def axes_trimmed(node: ir.Node, needs: dict[ir.Value, Need]) -> list[int | None] | None:
    """The axes of a node's inputs that lose tokens, where only some of its output's are read; else None."""
    need = needs.get(node.outputs[0])
    if len(node.outputs) > 1 or need is None or need.axis is None or leading(node) is not None:
        return None
    return axes_read(node, need.axis)


def needed(graph: ir.Graph, alignment: int) -> dict[ir.Value, Need]:
    """What is read of every value, from the graph's outputs back."""
    needs = {output: ALL for output in graph.outputs}

    def read(value: ir.Value | None, need: Need) -> None:
        if value is None or constant(value) is not None:
            return
        shape, known = shape_of(value), needs.get(value)
        if need.axis is not None and (shape is None or need.rows >= shape[need.axis]):
            need = ALL
        if known is not None and known.axis != need.axis:
            need = ALL
        needs[value] = need if known is None else Need(need.axis, max(need.rows, known.rows))

    for node in reversed(graph):
        wanted = [needs.get(each) for each in node.outputs]
        chosen = leading(node)
        if chosen is not None:
            rows = -(-chosen.rows // alignment) * alignment
            read(node.inputs[0], Need(chosen.axis, rows))
            continue
        need = wanted[0] if len(wanted) == 1 else ALL
        axes = None if need is None or need.axis is None else axes_read(node, need.axis)
        for number, each in enumerate(node.inputs):
            axis = None if axes is None else axes[number]
            read(each, ALL if axis is None or need is None else Need(axis, need.rows))
    return needs


def leading(node: ir.Node) -> Need | None:
    """The leading positions that a Gather or Slice reads, along its axis."""
    shape = shape_of(node.inputs[0]) if node.inputs else None
    if shape is None or node.domain != "":
        return None
    if node.op_type == "Gather":
        chosen = constant(node.inputs[1])
        axis = integer(node, "axis", 0) % len(shape)
        if chosen is None or chosen.size == 0 or chosen.min() < 0 or axis == len(shape) - 1:
            return None
        return Need(axis, int(chosen.max()) + 1)
    cut = slices(node, len(shape)) if node.op_type == "Slice" else None
    changed = [] if cut is None else [axis for axis, each in enumerate(cut) if each != slice(None)]
    if cut is None or len(changed) != 1 or changed[0] == len(shape) - 1:
        return None
    along = cut[changed[0]]
    if along.start < 0 or along.stop < 0 or along.stop >= shape[changed[0]]:
        return None
    return Need(changed[0], along.stop)


def trim(node: ir.Node, axes: list[int | None], needs: dict[ir.Value, Need], trimmed: set[ir.Value]) -> None:
    """Give a node the first rows of its inputs; those of `trimmed` have no others."""
    output = node.outputs[0]
    need, shape = needs[output], shape_of(output) or ()
    for number, (value, axis) in enumerate(zip(node.inputs, axes, strict=True)):
        if value is None or axis is None:
            continue
        given = constant(value)
        if given is not None:
            replace_constant(node, number, np.take(given, range(need.rows), axis=axis))
        elif value not in trimmed:
            rows = first_rows(node, value, need.rows, axis, f"{output.name}_rows_{number}")
            node.replace_input_with(number, rows)
    if node.op_type in ("Reshape", "Expand"):
        sizes = [need.rows if axis == need.axis else size for axis, size in enumerate(shape)]
        replace_constant(node, 1, np.asarray(sizes, np.int64))
