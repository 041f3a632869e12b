"""Linear layers, however a graph spells them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import pattern

from edgevit.rewrites.graph.values import Array, constant, integer, maker, shape_of
from edgevit.rewrites.graph.views import view_of


@dataclass(frozen=True)
class Linear:
    """x [..., inputs] times `weight` [inputs, outputs], plus `bias` [outputs]."""

    x: ir.Value
    weight: Array
    bias: Array | None


def linear_of(value: ir.Value | None) -> Linear | None:
    """The linear layer that makes a value: a MatMul with or without an addition, or a Gemm."""
    node = maker(value, "Add", "MatMul", "Gemm")
    if node is None:
        return None
    if node.op_type == "Gemm":
        return gemm(node)
    if node.op_type == "MatMul":
        weight = constant(node.inputs[1])
        x = node.inputs[0]
        return Linear(x, weight, None) if weight is not None and weight.ndim == 2 and x is not None else None
    for product, added in (node.inputs, reversed(node.inputs)):
        bias, inner = constant(added), linear_of(product) if maker(product, "MatMul") else None
        if bias is not None and inner is not None and bias.size in (1, inner.weight.shape[1]):
            if bias.ndim > 1 and bias.shape[-1] != bias.size:
                return None
            return Linear(inner.x, inner.weight, np.broadcast_to(bias.reshape(-1), inner.weight.shape[1:]))
    return None


def gemm(node: ir.Node) -> Linear | None:
    """A Gemm of constant weights and no factors."""
    weight, x = constant(node.inputs[1]), node.inputs[0]
    bias = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    factors = [node.attributes[name].as_float() for name in ("alpha", "beta") if name in node.attributes]
    if weight is None or x is None or integer(node, "transA", 0) or any(each != 1 for each in factors):
        return None
    if len(node.inputs) > 2 and (bias is None or bias.size != bias.shape[-1]):
        return None
    weight = weight.T if integer(node, "transB", 0) else weight
    return Linear(x, weight, None if bias is None else np.broadcast_to(bias, weight.shape[1:]))


def emit(op: Any, x: ir.Value, weight: Array, bias: Array | None, name: str) -> ir.Value:
    """x times a weight [inputs, outputs], plus a bias."""
    kernel = op.initializer(ir.tensor(np.ascontiguousarray(weight)), name=f"{name}_weight")
    product = op.MatMul(x, kernel)
    if bias is None:
        return product  # type: ignore[no-any-return]
    return op.Add(op.initializer(ir.tensor(np.ascontiguousarray(bias)), name=f"{name}_bias"), product)  # type: ignore[no-any-return]


def reshaped(op: Any, value: ir.Value, shape: tuple[int, ...], name: str) -> ir.Value:
    """A value in another shape of as many elements."""
    if shape_of(value) == shape:
        return value
    return op.Reshape(value, numbers(op, shape, f"{name}_shape"))  # type: ignore[no-any-return]


def as_tokens(op: Any, x: ir.Value, shape: tuple[int, ...], name: str) -> ir.Value:
    """x as `shape`, from as far back as its elements have that order: moves that cancel out are passed over."""
    view = view_of(x)
    if view is not None and view.whole and view.scale == 1.0:
        return reshaped(op, view.source, shape, name)
    return reshaped(op, x, shape, name)


class TokenLinears(pattern.RewriteRuleClassBase):
    """A linear layer over tokens [1, tokens, channels], whatever the rank it was written for.

    What NPUs run as one convolution; a rank of two, or a batch of one in another place, costs them moves.
    """

    def __init__(self, last: str) -> None:
        super().__init__("token-linears", remove_nodes=False)
        self.last = last  # the layer's last operation

    def pattern(self, op: Any, first: Any, second: Any) -> Any:
        """The last operation of a layer."""
        last = getattr(op, self.last)
        return last(first, second, _allow_other_inputs=True, _allow_other_attributes=True, _outputs=["out"])

    def check(self, op: Any, *args: Any, **kwargs: Any) -> Any:
        """Whether it is a layer of several tokens in another shape."""
        result, out = pattern.MatchResult(), kwargs["out"]
        linear, shape = linear_of(out), shape_of(out)
        self.linear, given = linear, shape_of(linear.x) if linear else None
        if linear is None or shape is None or given is None:
            return result.fail("no linear layer")
        tokens = int(np.prod(given[:-1]))
        if given == (1, tokens, given[-1]) or tokens == 1:
            return result.fail("its shape is that of tokens already")
        return result

    def rewrite(self, op: Any, out: ir.Value, **_: Any) -> Any:
        """The same layer over [1, tokens, channels]."""
        linear, shape = self.linear, shape_of(out)
        assert linear is not None and shape is not None
        tokens, name = int(np.prod(shape[:-1])), str(out.name)
        x = as_tokens(op, linear.x, (1, tokens, len(linear.weight)), f"{name}_x")
        made = emit(op, x, linear.weight, linear.bias, name)
        return op.Reshape(made, numbers(op, shape, f"{name}_as_before"))


def numbers(op: Any, values: tuple[int, ...], name: str) -> ir.Value:
    """A constant of integers."""
    return op.initializer(ir.tensor(np.asarray(values, np.int64)), name=name)  # type: ignore[no-any-return]
