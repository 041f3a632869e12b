"""Where a compiled graph leaves the float one: the graph is cut behind a node, built and simulated, by halves."""

from __future__ import annotations

import time
from collections import Counter
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
SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2)
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

    `simulate` gives the compiler's outputs [n, values] for a graph and a probe, both written to `folder`. A graph
    that ends early is fused otherwise at its end: the node says where to look, and proves nothing. One that does
    not build counts as right.
    """
    model = shape_inference.infer_shapes(onnx.load(graph))
    nodes = float_nodes(model)
    images = preprocessing.normalise(np.load(probe.pixels, allow_pickle=False))
    low, high = 0, len(nodes) - 1  # the last one's output is known to be wrong
    deadline = clock() + seconds
    while low < high and clock() < deadline:
        middle = (low + high) // 2
        progress.advance(0, 0, f"look for the first wrong layer: {high - low} left")
        if diverges(cut_behind(model, nodes[middle].output[0], images, probe, folder), simulate):
            high = middle
        else:
            low = middle + 1
    return (nodes[high].name or nodes[high].output[0]) + (" or before" if low < high else "")


def wrong_part(
    graph: Path, probe: Probe, preprocessing: Preprocessing, simulate: Simulate, folder: Path
) -> tuple[Path, Probe] | None:
    """The shortest beginning of a graph whose compiled outputs are wrong, of a sixteenth, eighth, fourth and half,
    with what it is to give; None where the rest has the fault too.

    It stays in `folder`. It ends at a value that several nodes read, as a residual stream is: the compiler fuses
    nothing across it.
    """
    model = shape_inference.infer_shapes(onnx.load(graph))
    nodes = float_nodes(model)
    readers = Counter(name for node in model.graph.node for name in node.input)
    images = preprocessing.normalise(np.load(probe.pixels, allow_pickle=False))
    tried = set[str]()
    for share in SHARES:
        later = (node.output[0] for node in nodes[int(share * len(nodes)) :])
        tensor = next((name for name in later if readers[name] > 1), None)
        if tensor is None or tensor in tried:
            continue
        tried.add(tensor)
        part = cut_behind(model, tensor, images, probe, folder)
        if diverges(part, simulate):
            return part
    return None


def cut_behind(
    model: onnx.ModelProto, tensor: str, images: Images, probe: Probe, folder: Path
) -> tuple[Path, Probe]:
    """The graph that ends at a tensor, and what it is to give for the probe's images."""
    cut, graph = Probe(probe.pixels, folder / "cut-outputs.npy"), folder / "cut.onnx"
    onnx.save(onnx.utils.Extractor(model).extract_model([first_input(model)], [tensor]), graph)
    np.save(cut.outputs, run_onnx(graph, images).reshape(len(images), -1))
    return graph, cut


def diverges(part: tuple[Path, Probe], simulate: Simulate) -> bool:
    """Whether the compiler's values are wrong where the graph ends."""
    try:
        return relative_error(simulate(*part), np.load(part[1].outputs)) > TOLERANCE
    except ToolchainError:
        return False
