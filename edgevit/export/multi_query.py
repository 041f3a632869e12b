"""Attention whose heads share one key and value (multi-query), without a copy of them for each head."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgevit.export.pooling import static_shapes


def heads_as_rows(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Products [n, heads, rows, inner] x [n, 1, inner, columns] as one product of heads * rows, in place.

    The same sums. rknn-toolkit2 expands the second factor to every head, which NPUs leave to the CPU.
    Source: Shazeer 2019, "Fast Transformer Decoding: One Write-Head is All You Need", for the attention.
    """
    shapes = static_shapes(graph)
    nodes: list[onnx.NodeProto] = []
    for node in graph.graph.node:
        left, right = (
            (shapes.get(name, ()) for name in node.input[:2]) if node.op_type == "MatMul" else ((), ())
        )
        if not (len(left) == len(right) == 4 and left[1] > 1 and right[1] == 1 and left[0] == right[0]):
            nodes.append(node)
            continue
        n, heads, rows, inner = left
        name = node.output[0]
        sizes = {f"{name}_rows": (n, 1, heads * rows, inner), f"{name}_heads": (n, heads, rows, right[3])}
        for key, shape in sizes.items():
            graph.graph.initializer.append(numpy_helper.from_array(np.array(shape, np.int64), f"{key}_shape"))
        nodes += [
            helper.make_node(
                "Reshape", [node.input[0], f"{name}_rows_shape"], [f"{name}_rows"], f"{name}_rows"
            ),
            helper.make_node("MatMul", [f"{name}_rows", node.input[1]], [f"{name}_product"], node.name),
            helper.make_node("Reshape", [f"{name}_product", f"{name}_heads_shape"], [name], f"{name}_heads"),
        ]
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)
    return graph
