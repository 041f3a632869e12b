"""Attention heads of a width that an NPU can move, in place of one that it can't.

Each head of q and k gets channels of zeros, which add nothing to a score; each of v gets some that the layer behind
the attention reads with weights of zero.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import pattern

from edgevit.rewrites.graph.attention import Heads, Sizes, core_of, operands_of
from edgevit.rewrites.graph.linears import emit, numbers, reshaped
from edgevit.rewrites.graph.spelling import SpellAttention
from edgevit.rewrites.graph.values import Array, constant, maker, shape_of
from edgevit.rewrites.graph.views import View, view_of


class PadHeads(SpellAttention):
    """Attention between linear layers, its heads filled up to a multiple of `alignment` channels."""

    def __init__(self, alignment: int) -> None:
        super().__init__(by_norm=False)
        self.alignment = alignment

    def pattern(self, op: Any, x: Any, weight: Any) -> Any:
        """The layer that reads the attention."""
        return op.MatMul(x, weight, _outputs=["output"])

    def check(self, op: Any, *args: Any, **kwargs: Any) -> Any:
        """Whether it reads an attention's heads side by side, of a width to be filled up."""
        result, product = pattern.MatchResult(), maker(kwargs["output"], "MatMul")
        self.weight = None if product is None else constant(product.inputs[1])
        view = None if product is None or product.inputs[0] is None else view_of(product.inputs[0])
        if view is None or self.weight is None or self.weight.ndim != 2 or view.scale != 1.0:
            return result.fail("no linear layer")
        self.core = core_of(view.source)
        if self.core is None or self.core.padding:
            return result.fail("no attention before it, or one with tokens that don't count")
        self.q, self.k, self.v = operands_of(self.core)
        if self.q is None or self.k is None or self.v is None:
            return result.fail("its heads are not cut out of linear layers")
        self.sizes = sizes = sizes_of(self.q, self.k, self.v)
        if sizes is None or not (sizes.width % self.alignment or sizes.values % self.alignment):
            return result.fail("nothing to fill up")
        self.columns = columns_of(view, sizes)
        return result if self.columns is not None else result.fail("its layer reads something else")

    def rewrite(self, op: Any, output: ir.Value, **_: Any) -> Any:
        """The same, with wider heads."""
        core, sizes, weight, columns = self.core, self.sizes, self.weight, self.columns
        assert core is not None and sizes is not None and weight is not None and columns is not None
        assert self.q is not None and self.k is not None and self.v is not None
        name = str(output.name)
        wider = replace(sizes, width=self.filled(sizes.width), values=self.filled(sizes.values))
        self.q, self.k, self.v = (widened(each, self.filled(each.width)) for each in (self.q, self.k, self.v))
        q, k, v = self.operands(op, wider, name)
        if sizes.groups > 1:
            lengths = (sizes.queries, wider.width), (sizes.keys, wider.width), (sizes.keys, wider.values)
            q, k, v = (
                in_groups(op, each, (sizes.heads, sizes.groups, *length), f"{name}_{number}")
                for number, (each, length) in enumerate(zip((q, k, v), lengths, strict=True))
            )
        scores = op.MatMul(q, op.Transpose(k, perm=[0, 1, 3, 2]))
        if core.bias is not None:
            bias = core.bias.reshape(-1, sizes.heads, sizes.queries, sizes.keys).astype(np.float32)
            scores = op.Add(scores, op.initializer(ir.tensor(bias), name=f"{name}_bias"))
        out = op.Transpose(op.MatMul(op.Softmax(scores, axis=-1), v), perm=[0, 2, 1, 3])
        tokens, channels = sizes.groups * sizes.queries, sizes.heads * wider.values
        x = op.Reshape(out, numbers(op, (1, tokens, channels), f"{name}_tokens"))
        rows = np.zeros((sizes.heads, wider.values, weight.shape[1]), weight.dtype)
        rows[columns // sizes.values, columns % sizes.values] = weight
        made = emit(op, x, rows.reshape(channels, -1), None, name)
        return reshaped(op, made, shape_of(output) or (), f"{name}_as_before")

    def filled(self, width: int) -> int:
        """A width as wide as it has to be."""
        return width + -width % self.alignment


def in_groups(op: Any, value: ir.Value, shape: tuple[int, ...], name: str) -> ir.Value:
    """[1, heads, groups * tokens, width] as [groups, heads, tokens, width]; `shape` has them with heads first."""
    apart = op.Reshape(value, numbers(op, shape, f"{name}_groups"))
    return op.Transpose(apart, perm=[1, 0, 2, 3])  # type: ignore[no-any-return]


def sizes_of(q: Heads, k: Heads, v: Heads) -> Sizes | None:
    """The sizes of an attention of these operands; None where they don't fit together."""
    if len({(each.groups, each.heads) for each in (q, k, v)}) > 1 or q.width != k.width:
        return None
    return Sizes(q.groups, q.heads, q.tokens, k.tokens, q.width, v.width)


def columns_of(view: View, sizes: Sizes) -> Array | None:
    """For each channel of a view of attention's [groups, heads, queries, values]: head * values + value.

    None where the view is anything but its tokens [groups * queries, channels] in order.
    """
    index = view.index.reshape(-1, view.index.shape[-1])
    group, rest = np.divmod(index, sizes.heads * sizes.queries * sizes.values)
    head, rest = np.divmod(rest, sizes.queries * sizes.values)
    query, value = np.divmod(rest, sizes.values)
    tokens, columns = group * sizes.queries + query, head * sizes.values + value
    in_order = (
        tokens.shape[0] == sizes.groups * sizes.queries and (tokens == np.arange(len(tokens))[:, None]).all()
    )
    return columns[0] if in_order and (columns == columns[0]).all() else None


def widened(heads: Heads, width: int) -> Heads:
    """Heads with channels of zeros behind their own."""
    more = ((0, 0), (0, 0), (0, width - heads.width))
    weight = np.pad(heads.weight.reshape(-1, heads.heads, heads.width), more)
    bias = heads.bias
    if bias is not None:
        bias = np.pad(bias.reshape(heads.heads, heads.width), more[1:]).reshape(-1)
    return replace(heads, weight=weight.reshape(len(weight), -1), bias=bias, width=width)
