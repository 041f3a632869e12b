"""Activations over tokens that compilers fuse with the layer before them only where tokens are pixels."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import pattern

from edgevit.rewrites.graph.linears import linear_of, numbers
from edgevit.rewrites.graph.values import shape_of


class HardSwishOfPixels(pattern.RewriteRuleClassBase):
    """HardSwish of tokens [1, tokens, channels] over [1, channels, 1, tokens], as convolutions have them.

    Rockchip's compilers make a layer over tokens a convolution, and fuse any other activation in either layout.
    Behind an attention it would stay on the NPU too, but int8 loses more there on RK3566.
    """

    def __init__(self) -> None:
        super().__init__("hard-swish-of-pixels")

    def pattern(self, op: Any, x: Any) -> Any:
        """The activation."""
        return op.HardSwish(x, _outputs=["output"])

    def check(self, op: Any, x: ir.Value, output: ir.Value) -> Any:
        """Whether it is over tokens that a layer makes."""
        result, shape = pattern.MatchResult(), shape_of(x)
        tokens = shape is not None and len(shape) == 3 and shape[0] == 1
        return (
            result if tokens and linear_of(x) is not None else result.fail("no layer over tokens before it")
        )

    def rewrite(self, op: Any, x: ir.Value, output: ir.Value) -> Any:
        """The same, there and back."""
        _, tokens, channels = shape_of(x) or (1, 1, 1)
        name = str(output.name)
        turned = op.Transpose(x, perm=[0, 2, 1])
        pixels = op.Reshape(turned, numbers(op, (1, channels, 1, tokens), f"{name}_pixels"))
        done = op.Reshape(op.HardSwish(pixels), numbers(op, (1, channels, tokens), f"{name}_turned"))
        return op.Transpose(done, perm=[0, 2, 1])
