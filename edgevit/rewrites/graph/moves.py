"""Where a tensor's channels are after an operation that treats every channel alike and mixes none."""

from __future__ import annotations

import math

import onnx_ir as ir

from edgevit.rewrites.graph.values import constant, integer, integers, scalar, shape_of

SAME_ORDER = ("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity")
POOLS = ("AveragePool", "GlobalAveragePool")


def moved_by(node: ir.Node, axis: int) -> list[tuple[ir.Value, int]] | None:
    """A node's outputs with the axis on which the channels of its first input are; None where they are mixed.

    Rearrangements, selections, means over other axes, products with one number: all linear, channel by channel.
    """
    given, made = shape_of(node.inputs[0]), shape_of(node.outputs[0])
    if node.domain != "" or given is None or made is None or constant(node.inputs[0]) is not None:
        return None
    found: int | None = None
    if node.op_type in SAME_ORDER:
        found = same_place(given, made, axis)
    elif node.op_type == "Transpose":
        found = (integers(node, "perm", range(len(given))[::-1]) or []).index(axis)
    elif node.op_type == "Split":
        apart = integer(node, "axis", 0) % len(given) != axis
        return [(each, axis) for each in node.outputs] if apart else None
    elif node.op_type == "Slice":
        axes = constant(node.inputs[3]) if len(node.inputs) > 3 else None
        cut = {int(each) % len(given) for each in axes} if axes is not None else set(range(len(given)))
        found = None if axis in cut else axis
    elif node.op_type == "Gather":
        chosen, along = constant(node.inputs[1]), integer(node, "axis", 0) % len(given)
        if chosen is not None and along != axis:
            found = axis + (chosen.ndim - 1 if axis > along else 0)
    elif node.op_type == "Expand":
        found = axis + len(made) - len(given)
        found = found if made[found] == given[axis] else None
    elif node.op_type == "ReduceMean":
        found = kept_by_mean(node, len(given), axis)
    elif node.op_type in POOLS:
        found = axis if axis == 1 else None
    elif node.op_type in ("Mul", "Div") and scalar(node.inputs[1]) is not None and made == given:
        found = axis
    return None if found is None else [(node.outputs[0], found)]


def source_of(node: ir.Node, value: ir.Value, axis: int) -> tuple[ir.Value, int] | None:
    """What a node moved to make a value whose channels are on this axis, and where they were."""
    source = node.inputs[0] if node.inputs else None
    given = shape_of(source)
    if source is None or given is None:
        return None
    return next(
        ((source, place) for place in range(len(given)) if (value, axis) in (moved_by(node, place) or ())),
        None,
    )


def same_place(given: tuple[int, ...], made: tuple[int, ...], axis: int) -> int | None:
    """Where an axis is in another shape of as many elements; None where it is split or joined."""
    before, width = math.prod(given[:axis]), given[axis]
    places = [place for place, size in enumerate(made) if size == width and math.prod(made[:place]) == before]
    return places[-1] if places else None


def kept_by_mean(node: ir.Node, rank: int, axis: int) -> int | None:
    """Where an axis is after a mean over others."""
    axes = integers(node, "axes")
    if axes is None and len(node.inputs) > 1:
        known = constant(node.inputs[1])
        axes = None if known is None else [int(each) for each in known]
    if axes is None or axis in (gone := {each % rank for each in axes}):
        return None
    return axis if integer(node, "keepdims", 1) else axis - sum(each < axis for each in gone)
