"""Average pools that leave padding out of the mean, written as pools that count it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from torch import nn
from torch.nn import functional

from edgevit.export import export_onnx
from edgevit.export.pooling import count_padding, inside


@settings(max_examples=50, deadline=None)
@given(
    size=st.tuples(st.integers(3, 12), st.integers(3, 12)),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    data=st.data(),
)
def test_any_pool_keeps_its_function(
    size: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int], data: st.DataObject
) -> None:
    padding = tuple(data.draw(st.integers(0, each // 2)) for each in kernel)
    pixels = torch.randn(1, 3, *size)
    expected = functional.avg_pool2d(pixels, kernel, stride, padding, count_include_pad=False)
    graph = count_padding(pool(size, kernel_shape=kernel, strides=stride, pads=padding * 2))
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": pixels.numpy()})
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5, atol=1e-6)
    (node, *rest) = graph.graph.node
    assert [each.op_type for each in rest] == (["Mul"] if any(padding) else [])


def pool(size: tuple[int, int], **attributes: object) -> onnx.ModelProto:
    """A graph of one AveragePool over three channels."""
    node = helper.make_node("AveragePool", ["x"], ["y"], **attributes)
    given = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 3, *size])
    made = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "pool", [given], [made])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_cells_inside_are_counted_at_both_ends() -> None:
    assert inside(length=5, kernel=3, stride=2, before=1, after=1).tolist() == [2, 3, 2]


@pytest.mark.parametrize(
    "attributes",
    [
        {"pads": [1, 1, 1, 1], "count_include_pad": 1},
        {"pads": [1, 1, 1, 1], "ceil_mode": 1},
        {"pads": [0, 0, 0, 0]},
        {"auto_pad": "SAME_UPPER"},
    ],
)
def test_other_pools_are_left_alone(attributes: dict[str, object]) -> None:
    graph = pool((6, 6), kernel_shape=[3, 3], strides=[2, 2], **attributes)
    before = graph.SerializeToString(deterministic=True)
    assert count_padding(graph).SerializeToString(deterministic=True) == before


def test_only_exports_for_an_npu_are_changed(tmp_path: Path) -> None:
    model = nn.Sequential(nn.AvgPool2d(3, 1, 1, count_include_pad=False), nn.Flatten()).eval()
    kinds = {}
    for name, for_npu in (("npu", True), ("cpu", False)):
        path = export_onnx(model, (4, 4), 1, tmp_path / f"{name}.onnx", for_npu=for_npu)
        graph = onnx.load(path).graph
        kinds[name] = [node.op_type for node in graph.node]
        if for_npu:
            (cells,) = (
                numpy_helper.to_array(each) for each in graph.initializer if each.name.endswith("_cells")
            )
    assert kinds["npu"][:2] == ["AveragePool", "Mul"]
    assert "Mul" not in kinds["cpu"]
    assert cells[0, 0, 0].tolist() == pytest.approx([9 / 4, 9 / 6, 9 / 6, 9 / 4])
