"""What a chain of reshapes, transposes, splits and slices amounts to: which element of its source each output is.

Two spellings of the same rearrangement have the same index map, however many operations they take: that is how
attention is recognised in any order of reshapes and transposes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgevit.rewrites.graph.values import constant, integer, integers, scalar, shape_of

Index = npt.NDArray[np.int64]

ORDERS = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten")  # every element once
MOVES = (*ORDERS, "Identity", "Split", "Slice", "Gather", "Concat")


@dataclass(frozen=True)
class View:
    """`index` has the value's shape: the flat position in `source` of each element, which `scale` multiplies."""

    source: ir.Value
    index: Index
    scale: float = 1.0

    @property
    def whole(self) -> bool:
        """Whether every element is there, once, in the source's own order."""
        shape = shape_of(self.source)
        count = -1 if shape is None else int(np.prod(shape))
        return self.index.size == count and bool((self.index.reshape(-1) == np.arange(count)).all())


def view_of(value: ir.Value) -> View | None:
    """The value as a rearrangement of the nearest value that isn't one; None where a shape isn't known."""
    shape = shape_of(value)
    if shape is None:
        return None
    node = value.producer()
    if node is None or node.domain != "" or node.op_type not in (*MOVES, "Mul", "Div"):
        return itself(value, shape)
    if node.op_type in ("Mul", "Div"):
        return scaled(value, node)
    if node.op_type == "Concat":
        return joined(value, node)
    if constant(node.inputs[0]) is not None:
        return itself(value, shape)
    before = view_of(node.inputs[0])  # type: ignore[arg-type]
    moved = None if before is None else move(node, value, before.index, shape)
    return None if before is None or moved is None else View(before.source, moved, before.scale)


def itself(value: ir.Value, shape: tuple[int, ...]) -> View:
    """A value as its own source."""
    return View(value, np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape))


def scaled(value: ir.Value, node: ir.Node) -> View | None:
    """A product with one number, or a quotient by it, is a view with a scale; any other product a source."""
    first, second = node.inputs[0], node.inputs[1]
    factor, other = scalar(second), first
    if factor is None and node.op_type == "Mul":
        factor, other = scalar(first), second
    shape = shape_of(value)
    assert shape is not None
    if factor is None or factor == 0 or other is None or shape_of(other) != shape:
        return itself(value, shape)
    before = view_of(other)
    factor = factor if node.op_type == "Mul" else 1 / factor
    return None if before is None else View(before.source, before.index, before.scale * factor)


def joined(value: ir.Value, node: ir.Node) -> View | None:
    """Parts of one source put together, as a shift of windows does, are a view of it."""
    shape = shape_of(value)
    assert shape is not None
    parts = [None if each is None or constant(each) is not None else view_of(each) for each in node.inputs]
    first = parts[0]
    same = first is not None and all(
        part is not None and part.source is first.source and part.scale == first.scale for part in parts
    )
    if not same or first is None:
        return itself(value, shape)
    index = np.concatenate([part.index for part in parts if part], axis=integer(node, "axis", 0))
    return View(first.source, index, first.scale)


def move(node: ir.Node, value: ir.Value, index: Index, shape: tuple[int, ...]) -> Index | None:
    """An index map after one operation that only moves elements; None where its arguments aren't constant."""
    kind = node.op_type
    if kind in ("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"):
        return index.reshape(shape)
    if kind == "Transpose":
        return index.transpose(integers(node, "perm", range(index.ndim)[::-1]) or ())
    if kind == "Gather":
        chosen = constant(node.inputs[1])
        return None if chosen is None else np.take(index, chosen, axis=integer(node, "axis", 0))
    if kind == "Slice":
        cut = slices(node, index.ndim)
        return None if cut is None else index[cut]
    axis = integer(node, "axis", 0)
    sizes = [shape_of(each) for each in node.outputs]
    if any(size is None for size in sizes):
        return None
    ends_at = np.cumsum([size[axis] for size in sizes if size])
    return np.split(index, ends_at[:-1], axis)[list(node.outputs).index(value)]


def slices(node: ir.Node, rank: int) -> tuple[slice, ...] | None:
    """What a Slice of constant bounds takes along each axis."""
    given = [constant(each) for each in node.inputs[1:]]
    if any(each is None for each in given):
        return None
    starts, ends, *rest = ([int(number) for number in each] for each in given if each is not None)
    axes = rest[0] if rest else list(range(len(starts)))
    steps = rest[1] if len(rest) > 1 else [1] * len(starts)
    cut = [slice(None)] * rank
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step < 0:
            return None
        cut[axis] = slice(start, end, step)
    return tuple(cut)
