"""Factors of a layer's outputs, one a channel, as LayerScale has them, in the layer's own weights."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgevit.rewrites.graph.streams import Weight, layer_that_writes
from edgevit.rewrites.graph.tokens import replace_constant
from edgevit.rewrites.graph.values import Array, constant, shape_of


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
        for each in weights or ():
            multiply(each, scale.reshape(-1))
        if weights:
            node.outputs[0].replace_all_uses_with(value)
            graph.remove(node, safe=True)
            folded += 1
    return folded


def scale_of(node: ir.Node) -> tuple[Array | None, ir.Value | None]:
    """A product's constant factor and the other, where nothing else reads that and their shapes are known."""
    for number in (0, 1):
        scale, value = constant(node.inputs[number]), node.inputs[1 - number]
        if scale is None or value is None or value.is_graph_output() or node.outputs[0].is_graph_output():
            continue
        if len(list(value.uses())) == 1 and shape_of(value) == shape_of(node.outputs[0]) is not None:
            return scale, value
    return None, None


def multiply(weight: Weight, scale: Array) -> None:
    """Multiply a layer's constant along its axis."""
    known = constant(weight.node.inputs[weight.number])
    assert known is not None
    sizes = [1] * known.ndim
    sizes[weight.axis] = -1
    scaled = known.astype(np.float64) * scale.astype(np.float64).reshape(sizes)
    replace_constant(weight.node, weight.number, scaled.astype(np.float32))
