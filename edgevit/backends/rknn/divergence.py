"""Where a compiled graph leaves the float one, and whether float16 could hold its values at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, shape_inference

from edgevit.backends.proof import TOLERANCE, Probe, relative_error
from edgevit.backends.protocol import Outputs
from edgevit.errors import ToolchainError
from edgevit.images.preprocessing import Preprocessing
from edgevit.progress import Progress

Images = npt.NDArray[np.float32]
Simulate = Callable[[Path, Probe], Outputs]


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


def first_divergence(
    graph: Path,
    probe: Probe,
    preprocessing: Preprocessing,
    simulate: Simulate,
    folder: Path,
    progress: Progress,
) -> str:
    """The first node whose output is wrong when the graph ends behind it, by halves.

    `simulate` gives the compiler's outputs [n, values] for a graph and a probe. A graph that ends early is fused
    otherwise at its end: the node says where to look, and proves nothing. One that does not build counts as right.
    """
    model = shape_inference.infer_shapes(onnx.load(graph))
    nodes = float_nodes(model)
    images = preprocessing.normalise(np.load(probe.pixels, allow_pickle=False))
    low, high = 0, len(nodes) - 1  # the last one's output is known to be wrong
    while low < high:
        middle = (low + high) // 2
        progress.advance(0, 0, f"look for the first wrong layer: {high - low} left")
        if diverges(model, nodes[middle].output[0], images, probe, simulate, folder):
            high = middle
        else:
            low = middle + 1
    return nodes[high].name or nodes[high].output[0]


def diverges(
    model: onnx.ModelProto, tensor: str, images: Images, probe: Probe, simulate: Simulate, folder: Path
) -> bool:
    """Whether the compiler's values of a tensor are wrong where the graph ends at it."""
    cut, graph = Probe(probe.pixels, folder / "cut-outputs.npy"), folder / "cut.onnx"
    onnx.save(onnx.utils.Extractor(model).extract_model([first_input(model)], [tensor]), graph)
    session = opened(graph)
    rows = [session.run(None, {first_input(model): image[None]})[0].reshape(-1) for image in images]
    np.save(cut.outputs, np.stack(rows))
    try:
        return relative_error(simulate(graph, cut), np.load(cut.outputs)) > TOLERANCE
    except ToolchainError:
        return False
    finally:
        graph.unlink()
        cut.outputs.unlink()


def float_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Nodes whose first output is float32, in the order they run; the model's shapes are inferred."""
    values = [*model.graph.value_info, *model.graph.output]
    floats = {each.name for each in values if each.type.tensor_type.elem_type == TensorProto.FLOAT}
    return [node for node in model.graph.node if node.output[0] in floats]


def first_input(model: onnx.ModelProto) -> str:
    """The name of a graph's image."""
    return str(model.graph.input[0].name)


def opened(model: Path | bytes) -> Any:
    """ONNX Runtime's session on the CPU."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
