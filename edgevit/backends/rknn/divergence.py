"""Where a compiled graph leaves the float one: the graph is cut behind a node, built and simulated, by halves."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import shape_inference

from edgevit.backends.float16 import Images, first_input, float_nodes
from edgevit.backends.proof import TOLERANCE, Probe, relative_error
from edgevit.backends.protocol import Outputs
from edgevit.errors import ToolchainError
from edgevit.export.parity import run_onnx
from edgevit.images.preprocessing import Preprocessing
from edgevit.progress import Progress

LOOK_SECONDS = 60.0
Simulate = Callable[[Path, Probe], Outputs]


def first_divergence(
    graph: Path,
    probe: Probe,
    preprocessing: Preprocessing,
    simulate: Simulate,
    folder: Path,
    progress: Progress,
    *,
    seconds: float = LOOK_SECONDS,
    clock: Callable[[], float] = time.monotonic,
) -> str:
    """The first node whose output is wrong when the graph ends behind it, by halves; "... or before" out of time.

    `simulate` gives the compiler's outputs [n, values] for a graph and a probe. A graph that ends early is fused
    otherwise at its end: the node says where to look, and proves nothing. One that does not build counts as right.
    """
    model = shape_inference.infer_shapes(onnx.load(graph))
    nodes = float_nodes(model)
    images = preprocessing.normalise(np.load(probe.pixels, allow_pickle=False))
    low, high = 0, len(nodes) - 1  # the last one's output is known to be wrong
    deadline = clock() + seconds
    while low < high and clock() < deadline:
        middle = (low + high) // 2
        progress.advance(0, 0, f"look for the first wrong layer: {high - low} left")
        if diverges(model, nodes[middle].output[0], images, probe, simulate, folder):
            high = middle
        else:
            low = middle + 1
    return (nodes[high].name or nodes[high].output[0]) + (" or before" if low < high else "")


def diverges(
    model: onnx.ModelProto, tensor: str, images: Images, probe: Probe, simulate: Simulate, folder: Path
) -> bool:
    """Whether the compiler's values of a tensor are wrong where the graph ends at it."""
    cut, graph = Probe(probe.pixels, folder / "cut-outputs.npy"), folder / "cut.onnx"
    onnx.save(onnx.utils.Extractor(model).extract_model([first_input(model)], [tensor]), graph)
    np.save(cut.outputs, run_onnx(graph, images).reshape(len(images), -1))
    try:
        return relative_error(simulate(graph, cut), np.load(cut.outputs)) > TOLERANCE
    except ToolchainError:
        return False
    finally:
        graph.unlink()
        cut.outputs.unlink()
