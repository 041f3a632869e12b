"""Means over tokens as pooling over pixels, which NPUs have a kernel for."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import pattern

from edgevit.rewrites.graph.linears import numbers
from edgevit.rewrites.graph.values import constant, shape_of


class PoolTokens(pattern.RewriteRuleClassBase):
    """The mean of tokens [1, tokens, channels] becomes a global average pool of [1, channels, 1, tokens]."""

    def __init__(self) -> None:
        super().__init__("pool-tokens")

    def pattern(self, op: Any, x: Any, axes: Any) -> Any:
        """A mean over axes."""
        return op.ReduceMean(x, axes, _allow_other_attributes=True, _outputs=["mean"])

    def check(self, op: Any, x: ir.Value, axes: ir.Value, mean: ir.Value) -> Any:
        """Whether it is over the tokens alone."""
        result, shape, along = pattern.MatchResult(), shape_of(x), constant(axes)
        if (
            shape is None
            or len(shape) != 3
            or shape[0] != 1
            or along is None
            or along.reshape(-1).tolist() not in ([1], [-2])
        ):
            return result.fail("no mean over tokens")
        return result

    def rewrite(self, op: Any, x: ir.Value, axes: ir.Value, mean: ir.Value) -> Any:
        """The pool."""
        _, tokens, channels = shape_of(x) or (1, 1, 1)
        pixels = op.Reshape(
            op.Transpose(x, perm=[0, 2, 1]), numbers(op, (1, channels, 1, tokens), f"{mean.name}_pixels")
        )
        shape = shape_of(mean) or (1, channels)
        return op.Reshape(op.GlobalAveragePool(pixels), numbers(op, shape, f"{mean.name}_as_before"))
