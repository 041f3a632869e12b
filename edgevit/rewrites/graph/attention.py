"""Attention, recognised in whatever spelling.

softmax(q kᵀ · scale + bias) v is found by its two products and the softmax between them. How q, k and v are cut out
of linear layers is told by index maps (`views`), so any order of reshapes, transposes, splits and slices will do,
and any number of layers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgevit.rewrites.graph.linears import linear_of
from edgevit.rewrites.graph.values import Array, constant, integer, maker, shape_of
from edgevit.rewrites.graph.views import view_of

# Of a Softmax in its metadata: how many of its last keys are copies of the first.
PADDING = "edgevit.padding"


@dataclass(frozen=True)
class Core:
    """softmax(q kᵀ · scale + bias) v: q [..., queries, width], `keys_t` [..., width, keys], v [..., keys, width].

    `bias` is a constant that broadcasts to the scores, None where there is none. The last `padding` keys are copies
    of the first, which must not count.
    """

    q: ir.Value
    keys_t: ir.Value
    v: ir.Value
    scale: float
    bias: Array | None
    padding: int


@dataclass(frozen=True)
class Sizes:
    """Of an attention's operands: q and k have `width` channels a head, v has `values`."""

    groups: int
    heads: int
    queries: int
    keys: int
    width: int
    values: int


@dataclass(frozen=True)
class Heads:
    """q, k or v as a linear layer of tokens: x's first `tokens` rows in each of `groups`, `heads` of `width`."""

    x: ir.Value
    groups: int
    rows: int  # of x in each group
    tokens: int
    heads: int
    width: int
    weight: Array  # [inputs, heads * width]
    bias: Array | None

    @property
    def taken(self) -> tuple[int, int, int]:
        """Which rows of x are taken."""
        return self.groups, self.rows, self.tokens


def core_of(output: ir.Value) -> Core | None:
    """The attention that a product with a softmax's result computes."""
    node = maker(output, "MatMul")
    softmax = None if node is None else maker(node.inputs[0], "Softmax")
    scores = None if softmax is None else softmax.inputs[0]
    shape = shape_of(scores)
    if (
        node is None
        or softmax is None
        or shape is None
        or integer(softmax, "axis", -1) not in (-1, len(shape) - 1)
    ):
        return None
    scale, bias = 1.0, None
    while (inner := maker(scores, "Add", "Mul", "Div", "Reshape", "Identity")) is not None:
        assert inner is not None
        if inner.op_type == "Add":
            added, scores = other(inner)
            if added is None:
                return None
            added = np.broadcast_to(added, shape_of(inner.outputs[0]) or ()).reshape(shape) * 1.0
            bias = scale * added if bias is None else bias + scale * added
        elif inner.op_type in ("Mul", "Div"):
            factor, scores = other(inner)
            if (
                factor is None
                or factor.size != 1
                or (inner.op_type == "Div" and constant(inner.inputs[1]) is None)
            ):
                return None
            number = float(factor.reshape(()))
            scale *= number if inner.op_type == "Mul" else 1 / number
        else:
            scores = inner.inputs[0]
    product = maker(scores, "MatMul")
    if product is None or any(each is None for each in (*product.inputs, *node.inputs)):
        return None
    q, keys_t, v = product.inputs[0], product.inputs[1], node.inputs[1]
    given = shape_of(scores)
    if given is None or given[-2:] != shape[-2:] or constant(v) is not None or constant(keys_t) is not None:
        return None
    padding = int(softmax.metadata_props.get(PADDING, 0))
    return Core(q, keys_t, v, scale, bias, padding)  # type: ignore[arg-type]


def other(node: ir.Node) -> tuple[Array | None, ir.Value | None]:
    """(constant, computed): the two inputs of a node by what they are; (None, None) where both are computed."""
    for first, second in (node.inputs, node.inputs[::-1]):
        found = constant(first)
        if found is not None:
            return found, second
    return None, None


def heads_of(value: ir.Value, *, transposed: bool) -> Heads | None:
    """A value [..., tokens, width], or [..., width, tokens] where `transposed`, as heads of a linear layer."""
    view = view_of(value)
    linear = None if view is None else linear_of(view.source)
    shape = None if view is None else shape_of(view.source)
    if view is None or linear is None or shape is None:
        return None
    index = view.index.swapaxes(-1, -2) if transposed else view.index
    index = index.reshape(-1, *index.shape[-2:])
    row, column = index // shape[-1], index % shape[-1]
    rows, columns = row[:, :, 0], column[:, 0, :]
    if (row != rows[:, :, None]).any() or (column != columns[:, None, :]).any():
        return None
    many = len(index)
    heads = next(
        (
            count
            for count in range(1, many + 1)
            if many % count == 0
            and (columns == np.tile(columns[:count], (many // count, 1))).all()
            and (rows == np.repeat(rows[::count], count, axis=0)).all()
        ),
        None,
    )
    if heads is None:
        return None
    groups, tokens = many // heads, index.shape[1]
    total = int(np.prod(shape[:-1]))
    if total % groups:
        return None
    each = total // groups
    expected = np.arange(total).reshape(groups, each)[:, :tokens]
    if tokens > each or (rows[::heads] != expected).any():
        return None
    chosen = columns[:heads].reshape(-1)
    weight = linear.weight[:, chosen] * np.asarray(view.scale, linear.weight.dtype)
    bias = None if linear.bias is None else linear.bias[chosen] * np.asarray(view.scale, linear.weight.dtype)
    return Heads(linear.x, groups, each, tokens, heads, index.shape[2], weight, bias)


def operands_of(core: Core) -> tuple[Heads | None, Heads | None, Heads | None]:
    """q, k and v as heads of linear layers; None for one that is something else."""
    k = heads_of(core.keys_t, transposed=True)
    return heads_of(core.q, transposed=False), k, heads_of(core.v, transposed=False)


def groups_of(core: Core) -> int:
    """In how many groups an attention's tokens are, each for itself."""
    known = next((each for each in operands_of(core) if each is not None), None)
    return known.groups if known else math.prod((shape_of(core.v) or ())[:-3])
