"""What float16 alone does to a graph, without any compiler: how far it moves the outputs, what it cannot hold.

ONNX Runtime computes in float32 and stores every tensor in float16: the least that such hardware rounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper, shape_inference

from edgevit.backends.proof import relative_error

Images = npt.NDArray[np.float32]
LARGEST = float(np.finfo(np.float16).max)


def own_error(
    graph: Path, images: Images, expected: npt.NDArray[np.float32], sizes: Sequence[int] = ()
) -> float:
    """Relative error of the outputs [n, values] with every tensor stored in float16; infinite where one overflows.

    `images` are [n, channels, height, width] normalised.
    """
    model = shape_inference.infer_shapes(onnx.load(graph))
    session = opened(stored(model).SerializeToString(), optimised=False)
    answers = [session.run(None, {first_input(model): image[None]}) for image in images]
    rows = [np.concatenate([each.reshape(-1) for each in answer]) for answer in answers]
    return relative_error(np.stack(rows), expected, sizes)


def stored(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with a rounding to float16 behind every node that gives floats, its weights rounded too.

    Changes and returns the model given, whose shapes are inferred.
    """
    floats = {node.output[0] for node in float_nodes(model)}
    nodes: list[onnx.NodeProto] = []
    for number, node in enumerate(model.graph.node):
        if node.output[0] in floats:
            name, exact, half = node.output[0], f"exact_{number}", f"half_{number}"
            node.output[0] = exact
            nodes += [
                node,
                helper.make_node("Cast", [exact], [half], to=TensorProto.FLOAT16),
                helper.make_node("Cast", [half], [name], to=TensorProto.FLOAT),
            ]
        else:
            nodes.append(node)
    with np.errstate(over="ignore"):
        for each in model.graph.initializer:
            if each.data_type == TensorProto.FLOAT:
                half_values = numpy_helper.to_array(each).astype(np.float16).astype(np.float32)
                each.CopyFrom(numpy_helper.from_array(half_values, each.name))
    kept = list(map(copied, nodes))
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return model


def copied(node: onnx.NodeProto) -> onnx.NodeProto:
    """A node of its own: those of a graph end with its list."""
    other = onnx.NodeProto()
    other.CopyFrom(node)
    return other


def largest_value(graph: Path, images: Images) -> tuple[str, float]:
    """The node whose output is the largest in magnitude on images [n, channels, height, width], and how large."""
    model = shape_inference.infer_shapes(onnx.load(graph))
    makers = {node.output[0]: node.name or node.output[0] for node in float_nodes(model)}
    given = {each.name for each in model.graph.output}
    added = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in makers if name not in given
    ]
    model.graph.output.extend(added)
    session = opened(model.SerializeToString())
    found = ("", 0.0)
    for image in images:
        for name, values in zip(
            makers, session.run(list(makers), {first_input(model): image[None]}), strict=True
        ):
            size = float(np.abs(values).max(initial=0.0))
            found = max(found, (makers[name], size), key=lambda each: each[1])
    return found


def float_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Nodes whose first output is float32, in the order they run; the model's shapes are inferred."""
    values = [*model.graph.value_info, *model.graph.output]
    floats = {each.name for each in values if each.type.tensor_type.elem_type == TensorProto.FLOAT}
    return [node for node in model.graph.node if node.output[0] in floats]


def first_input(model: onnx.ModelProto) -> str:
    """The name of a graph's image."""
    return str(model.graph.input[0].name)


def opened(model: bytes, *, optimised: bool = True) -> Any:
    """ONNX Runtime's session on the CPU; as the graph stands where it is not to be optimised."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
