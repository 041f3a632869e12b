"""Average pooling over zeros instead of around them, for NPUs that only know the one.

Exact: where a window hangs over the edge by some of its k cells, the mean over all k is too small by the share of
cells inside, which is known beforehand. A product with one constant per output position corrects it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper, shape_inference


def count_padding(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Every 2-d AveragePool that leaves padding out of the mean becomes one that counts it, and a Mul.

    Changes and returns the graph given. Pools whose shapes aren't static, or that round sizes up, are left alone.
    """
    shapes = static_shapes(graph)
    nodes: list[onnx.NodeProto] = []
    for node in graph.graph.node:
        nodes.append(node)
        factors = None if node.op_type != "AveragePool" else missing_share(node, shapes.get(node.input[0]))
        if factors is None:
            continue
        for each in [each for each in node.attribute if each.name == "count_include_pad"]:
            node.attribute.remove(each)
        node.attribute.append(helper.make_attribute("count_include_pad", 1))
        out = node.output[0]
        node.output[0] = f"{out}_padding_counted"
        graph.graph.initializer.append(numpy_helper.from_array(factors, f"{out}_cells"))
        product = [node.output[0], f"{out}_cells"]
        nodes.append(helper.make_node("Mul", product, [out], name=f"{node.name}_cells"))
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)
    return graph


def missing_share(node: onnx.NodeProto, shape: tuple[int, ...] | None) -> npt.NDArray[np.float32] | None:
    """Cells of the window over cells inside the picture, [1, 1, rows, columns]; None where nothing is to change.

    `shape` is the picture's, [n, channels, height, width].
    """
    given: dict[str, Any] = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    pads = given.get("pads", [0, 0, 0, 0])
    odd = given.get("ceil_mode", 0) or given.get("auto_pad", b"NOTSET") != b"NOTSET"
    if shape is None or odd or given.get("count_include_pad", 0) or not any(pads) or len(pads) != 4:
        return None
    if any(step != 1 for step in given.get("dilations", [1, 1])):
        return None
    axes = zip(
        shape[2:], given["kernel_shape"], given.get("strides", [1, 1]), pads[:2], pads[2:], strict=True
    )
    rows, columns = (kernel / inside(length, kernel, *rest) for length, kernel, *rest in axes)
    return np.outer(rows, columns).astype(np.float32)[None, None]


def inside(length: int, kernel: int, stride: int, before: int, after: int) -> npt.NDArray[np.int64]:
    """How many cells of each window along one axis are inside the picture."""
    starts = np.arange(0, length + before + after - kernel + 1, stride) - before
    cells: npt.NDArray[np.int64] = np.minimum(starts + kernel, length) - np.maximum(starts, 0)
    return cells


def static_shapes(graph: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """The shape of every 4-d tensor of which it is known."""
    inferred = shape_inference.infer_shapes(graph).graph
    found = {}
    for value in [*inferred.value_info, *inferred.input, *inferred.output]:
        dims = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        if len(dims) == 4 and all(dims):
            found[value.name] = tuple(dims)
    return found
