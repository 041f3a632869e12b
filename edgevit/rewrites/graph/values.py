"""What is known of a graph's values: shapes, constants, who makes and who reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt
import onnx
import onnx_ir as ir

Array = npt.NDArray[Any]


def opened(proto: onnx.ModelProto) -> ir.Model:
    """The graph with the shape of every value, to be rewritten; the proto given is not changed."""
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto))


def shape_of(value: ir.Value | None) -> tuple[int, ...] | None:
    """A value's shape; None where any of it isn't known."""
    if value is None or value.shape is None or not all(isinstance(size, int) for size in value.shape):
        return None
    return tuple(int(size) for size in value.shape.dims)  # type: ignore[arg-type]


def constant(value: ir.Value | None) -> Array | None:
    """A constant's numbers; None for what is computed."""
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def scalar(value: ir.Value | None) -> float | None:
    """A constant of one number."""
    found = constant(value)
    return float(found.reshape(())) if found is not None and found.size == 1 else None


def integers(node: ir.Node, name: str, default: Sequence[int] | None = None) -> list[int] | None:
    """A node's attribute of several integers."""
    attribute = node.attributes.get(name)
    if attribute is None:
        return None if default is None else list(default)
    return list(attribute.as_ints())


def integer(node: ir.Node, name: str, default: int) -> int:
    """A node's attribute of one integer."""
    attribute = node.attributes.get(name)
    return default if attribute is None else int(attribute.as_int())


def maker(value: ir.Value | None, *kinds: str) -> ir.Node | None:
    """The node that makes a value, where it is one of these kinds."""
    node = None if value is None else value.producer()
    return node if node is not None and node.domain == "" and node.op_type in kinds else None
