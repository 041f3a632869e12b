"""Where a compiled graph leaves the float one, found with a compiler that is wrong from a known node on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgevit.backends.proof import Probe
from edgevit.backends.protocol import Outputs
from edgevit.backends.rknn.divergence import first_divergence, wrong_part
from edgevit.errors import ToolchainError
from edgevit.images.preprocessing import Preprocessing
from edgevit.progress import QUIET

NODES = 12


def chain(folder: Path, scale: float = 1.0) -> Path:
    """Twelve additions, one of which is a product with `scale`."""
    kinds = [("Mul", "scale") if number == 7 else ("Add", "one") for number in range(NODES)]
    nodes = [
        helper.make_node(kind, [f"t{number}", other], [f"t{number + 1}"], name=f"node{number}")
        for number, (kind, other) in enumerate(kinds)
    ]
    shape = (1, 3, 4, 4)
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("t0", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(f"t{NODES}", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.float32(each), name) for name, each in (("one", 1.0), ("scale", scale))],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "m.onnx"
    )
    return folder / "m.onnx"


@pytest.mark.parametrize("culprit", range(NODES))
def test_the_first_wrong_node_is_found_in_few_builds(tmp_path: Path, culprit: int) -> None:
    graph, builds = chain(tmp_path), list[int]()

    def simulate(cut: Path, probe: Probe) -> Outputs:
        builds.append(len(onnx.load(cut).graph.node))
        right: Outputs = np.load(probe.outputs)
        return right if builds[-1] <= culprit else right * 2

    probe = Probe(tmp_path / "pixels.npy", tmp_path / "unused.npy")
    np.save(probe.pixels, np.zeros((2, 4, 4, 3), np.uint8))
    found = first_divergence(graph, probe, Preprocessing((4, 4)), simulate, tmp_path, QUIET)
    assert found == f"node{culprit}" and len(builds) <= 4


def test_out_of_time_it_says_so(tmp_path: Path) -> None:
    times = iter([0.0, 0.0, 61.0])
    probe = Probe(tmp_path / "pixels.npy", tmp_path / "unused.npy")
    np.save(probe.pixels, np.zeros((2, 4, 4, 3), np.uint8))

    def simulate(cut: Path, probe: Probe) -> Outputs:
        wrong: Outputs = np.load(probe.outputs) * 2
        return wrong

    found = first_divergence(
        chain(tmp_path), probe, Preprocessing((4, 4)), simulate, tmp_path, QUIET, clock=lambda: next(times)
    )
    assert found == "node5 or before"


def test_cuts_that_do_not_build_do_not_stop_the_search(tmp_path: Path) -> None:
    def simulate(cut: Path, probe: Probe) -> Outputs:
        raise ToolchainError("the toolkit failed", "it died", "See log")

    probe = Probe(tmp_path / "pixels.npy", tmp_path / "unused.npy")
    np.save(probe.pixels, np.zeros((2, 4, 4, 3), np.uint8))
    found = first_divergence(chain(tmp_path), probe, Preprocessing((4, 4)), simulate, tmp_path, QUIET)
    assert found == f"node{NODES - 1}"


def stream(folder: Path) -> Path:
    """Sixteen times a stream and its own Relu, added: each sum is read twice, each Relu once."""
    nodes = []
    for number in range(16):
        nodes.append(helper.make_node("Relu", [f"s{number}"], [f"r{number}"]))
        nodes.append(helper.make_node("Add", [f"s{number}", f"r{number}"], [f"s{number + 1}"]))
    shape = (1, 3, 4, 4)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("s0", "s16")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "m.onnx"
    )
    return folder / "m.onnx"


@pytest.mark.parametrize(("first_wrong", "part"), [(0, 4), (3, 4), (5, 6), (14, 18), (30, None)])
def test_the_shortest_beginning_that_is_wrong_ends_at_what_several_read(
    tmp_path: Path, first_wrong: int, part: int | None
) -> None:
    def simulate(cut: Path, probe: Probe) -> Outputs:
        right: Outputs = np.load(probe.outputs)
        return right if len(onnx.load(cut).graph.node) <= first_wrong else right * 2

    probe = Probe(tmp_path / "pixels.npy", tmp_path / "unused.npy")
    np.save(probe.pixels, np.full((2, 4, 4, 3), 9, np.uint8))
    found = wrong_part(stream(tmp_path), probe, Preprocessing((4, 4)), simulate, tmp_path)
    assert (len(onnx.load(found[0]).graph.node) if found else None) == part
    if found:
        assert np.load(found[1].outputs).shape == (2, 48)
