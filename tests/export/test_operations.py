"""Operations computed by torch give what ONNX Runtime gives."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from edgevit.errors import EdgevitError
from edgevit.export.graph_in_torch import Graph, keep

WAYS = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")


def resize(size: tuple[int, int], **attributes: Any) -> Any:
    node = helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], **attributes)
    graph = helper.make_graph(
        [node],
        "resize",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, 5, 7))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 3, *size))],
        [helper.make_tensor("sizes", TensorProto.INT64, (4,), (1, 3, *size))],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


@pytest.mark.parametrize("size", [(10, 14), (5, 14), (3, 4), (11, 1), (8, 9)])
@pytest.mark.parametrize(("mode", "way"), list(itertools.product(("nearest", "linear", "cubic"), WAYS)))
def test_resizing(mode: str, way: str, size: tuple[int, int]) -> None:
    model = resize(size, mode=mode, coordinate_transformation_mode=way)
    image = np.random.default_rng(0).normal(size=(3, 5, 7)).astype(np.float32)
    (right,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": image[None]})
    found = Graph(model).run(torch.from_numpy(image), keep)
    np.testing.assert_allclose(found.numpy(), right.reshape(-1), atol=1e-5)


def test_another_way_to_resize_is_one_line() -> None:
    model = resize((10, 14), mode="linear", coordinate_transformation_mode="tf_crop_and_resize")
    with pytest.raises(EdgevitError, match="it resizes by tf_crop_and_resize"):
        Graph(model).run(torch.zeros(3, 5, 7), keep)
