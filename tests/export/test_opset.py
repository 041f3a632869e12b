"""Graphs of later opsets for compilers that stop earlier."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgevit.errors import EdgevitError
from edgevit.export import export_graph
from edgevit.export.onnx_graph import OPSET
from edgevit.export.opset import brought_down
from edgevit.export.parity import run_onnx

SHAPE = (1, 3, 4, 4)
IMAGES = np.random.default_rng(0).standard_normal((2, *SHAPE[1:])).astype(np.float32)


def graph(*nodes: onnx.NodeProto, opset: int) -> onnx.ModelProto:
    body = helper.make_graph(
        [*nodes, helper.make_node("Flatten", ["y"], ["logits"])],
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, (1, 48))],
    )
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


@pytest.mark.parametrize(
    "node",
    [
        helper.make_node("Gelu", ["image"], ["y"]),
        helper.make_node("Gelu", ["image"], ["y"], approximate="tanh"),
        helper.make_node("Softmax", ["image"], ["y"], axis=-1),
    ],
    ids=["gelu", "gelu by tanh", "softmax"],
)
@pytest.mark.parametrize("opset", [20, 21, 22])
def test_a_later_graph_computes_the_same_in_earlier_operators(
    tmp_path: Path, node: onnx.NodeProto, opset: int
) -> None:
    model = graph(node, opset=opset)
    onnx.save(model, tmp_path / "given.onnx")
    found = export_graph(model, tmp_path / "model.onnx")
    written = onnx.load(found)
    assert written.opset_import[0].version == OPSET
    assert not {"Gelu", "CastLike", "Sum"} & {each.op_type for each in written.graph.node}
    np.testing.assert_allclose(run_onnx(found, IMAGES), run_onnx(tmp_path / "given.onnx", IMAGES), atol=1e-6)


def test_the_graph_given_is_left_as_it_is(tmp_path: Path) -> None:
    model = graph(helper.make_node("Gelu", ["image"], ["y"]), opset=20)
    before = model.SerializeToString()
    export_graph(model, tmp_path / "model.onnx")
    assert model.SerializeToString() == before


def test_an_operator_that_nothing_earlier_can_say_is_one_line() -> None:
    model = graph(helper.make_node("StringSplit", ["image"], ["y", "n"]), opset=20)
    with pytest.raises(EdgevitError, match="cannot bring the graph down to opset 19") as caught:
        brought_down(model, OPSET)
    assert "\n" not in str(caught.value)
