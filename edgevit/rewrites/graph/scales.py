"""Factors and constants of a layer's outputs, as LayerScale and batch norms have them, in its own weights."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from edgevit.rewrites.graph.moves import source_of
from edgevit.rewrites.graph.streams import Weight, layer_that_writes
from edgevit.rewrites.graph.tokens import replace_constant
from edgevit.rewrites.graph.turning import shift_output
from edgevit.rewrites.graph.values import Array, constant, shape_of
from edgevit.rewrites.graph.views import ORDERS


def fold_scales(graph: ir.Graph) -> int:
    """Multiply layers by what their outputs, which nothing else reads, are multiplied by; how many were."""
    folded = 0
    for node in [each for each in graph if each.op_type == "Mul"]:
        scale, value = scale_of(node)
        if scale is None or value is None:
            continue
        axis = next((at for at in range(-scale.ndim, 0) if scale.shape[at] > 1), 0)
        rank, producer = len(shape_of(value) or ()), value.producer()
        if axis == 0 or scale.shape[axis] != scale.size or producer is None:
            continue
        weights = layer_that_writes(producer, value, rank + axis, scale.size)
        multiply(weights or (), scale.reshape(-1))
        if weights:
            node.outputs[0].replace_all_uses_with(value)
            graph.remove(node, safe=True)
            folded += 1
    return folded


def fold_batch_norms(graph: ir.Graph) -> int:
    """Fold each batch norm into the linear layer before it, whatever reshapes are in between; how many were.

    Exporters know it behind convolutions. LeViT has it behind linear layers over tokens, flattened and put back.
    """
    folded = 0
    for node in [each for each in graph if each.op_type == "BatchNormalization"]:
        constants = [constant(each) for each in node.inputs[1:]]
        value, out = node.inputs[0], node.outputs[0]
        if value is None or out.is_graph_output() or any(each is None for each in constants):
            continue
        gain, shift, mean, variance = (each.astype(np.float64) for each in constants if each is not None)
        epsilon = node.attributes["epsilon"].as_float() if "epsilon" in node.attributes else 1e-5
        weights = layer_before(value, 1, len(gain))
        if not weights:
            continue
        scale = gain / np.sqrt(variance + epsilon)
        multiply(weights, scale)
        shift_output(graph, weights[0].node, shift - mean * scale)
        moved = node.inputs[0]  # a sum may stand between by now
        assert moved is not None
        out.replace_all_uses_with(moved)
        graph.remove(node, safe=True)
        folded += 1
    return folded


def layer_before(value: ir.Value, axis: int, width: int) -> list[Weight] | None:
    """The constants of the linear layer that a value is the outputs of, in another order; nothing else reads it."""
    while len(list(value.uses())) == 1 and not value.is_graph_output():
        node = value.producer()
        weights = None if node is None else layer_that_writes(node, value, axis, width)
        if weights:
            return weights
        source = source_of(node, value, axis) if node is not None and node.op_type in ORDERS else None
        if source is None:
            return None
        value, axis = source
    return None


def scale_of(node: ir.Node) -> tuple[Array | None, ir.Value | None]:
    """A product's constant factor and the other, where nothing else reads that and their shapes are known."""
    for number in (0, 1):
        scale, value = constant(node.inputs[number]), node.inputs[1 - number]
        if scale is None or value is None or value.is_graph_output() or node.outputs[0].is_graph_output():
            continue
        if len(list(value.uses())) == 1 and shape_of(value) == shape_of(node.outputs[0]) is not None:
            return scale, value
    return None, None


def multiply(weights: Iterable[Weight], scale: Array) -> None:
    """Multiply a layer's constants along their axes."""
    for each in weights:
        known = constant(each.node.inputs[each.number])
        assert known is not None
        sizes = [1] * known.ndim
        sizes[each.axis] = -1
        scaled = known.astype(np.float64) * scale.astype(np.float64).reshape(sizes)
        replace_constant(each.node, each.number, scaled.astype(np.float32))
