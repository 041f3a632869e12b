"""Operations computed by torch give what ONNX Runtime gives."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

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


def single(kind: str, shapes: list[tuple[int, ...]], **attributes: Any) -> Any:
    """A graph of one operation on an image and constants."""
    rng = np.random.default_rng(0)
    constants = [rng.normal(size=shape).astype(np.float32) for shape in shapes[1:]]
    names = [f"c{number}" for number in range(len(constants))]
    node = helper.make_node(kind, ["x", *names], ["y"], **attributes)
    graph = helper.make_graph(
        [node],
        "single",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, *shapes[0]))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(each, name) for each, name in zip(constants, names, strict=True)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


IMAGE = (4, 6, 8)
KERNEL = (4, 4, 3, 2)


@pytest.mark.parametrize(("transA", "transB", "alpha"), list(itertools.product((0, 1), (0, 1), (1.0, 0.5))))
@pytest.mark.parametrize("bias", [None, (4,), (1,), (1, 1)])
def test_linear_layers(transA: int, transB: int, alpha: float, bias: tuple[int, ...] | None) -> None:
    flat = helper.make_node("Reshape", ["x", "sizes"], ["flat"])
    names = ["flat", "weight", *([] if bias is None else ["bias"])]
    gemm = helper.make_node("Gemm", names, ["y"], transA=transA, transB=transB, alpha=alpha, beta=alpha)
    rng, rows = np.random.default_rng(0), 1 if transA else 6
    weight = rng.normal(size=(4, rows) if transB else (rows, 4)).astype(np.float32)
    constants = [
        numpy_helper.from_array(np.array([1, 6]), "sizes"),
        numpy_helper.from_array(weight, "weight"),
    ]
    if bias is not None:
        constants.append(numpy_helper.from_array(rng.normal(size=bias).astype(np.float32), "bias"))
    graph = helper.make_graph(
        [flat, gemm],
        "gemm",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 6))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    image = rng.normal(size=6).astype(np.float32)
    (right,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": image[None]})
    found = Graph(model).run(torch.from_numpy(image), keep)
    np.testing.assert_allclose(found.numpy(), right.reshape(-1), atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "more", "attributes"),
    [
        ("Conv", [KERNEL], {"auto_pad": "SAME_UPPER", "strides": [2, 1]}),
        ("Conv", [KERNEL], {"auto_pad": "SAME_LOWER", "strides": [1, 2]}),
        ("Conv", [KERNEL], {"auto_pad": "VALID"}),
        ("Conv", [KERNEL], {"pads": [1, 1, 1, 1]}),
        ("Conv", [KERNEL], {"pads": [2, 0, 1, 1]}),
        ("MaxPool", [], {"kernel_shape": [3, 2], "auto_pad": "SAME_UPPER", "strides": [2, 2]}),
        ("AveragePool", [], {"kernel_shape": [3, 2], "auto_pad": "SAME_LOWER", "strides": [1, 2]}),
        ("DepthToSpace", [], {"blocksize": 2}),
        ("DepthToSpace", [], {"blocksize": 2, "mode": "CRD"}),
        ("SpaceToDepth", [], {"blocksize": 2}),
        ("PRelu", [(4, 1, 1)], {}),
        ("Selu", [], {}),
        ("Celu", [], {"alpha": 0.7}),
        ("Softsign", [], {}),
        ("Sign", [], {}),
        ("Round", [], {}),
        ("LogSoftmax", [], {"axis": 1}),
        ("Sum", [(8,), (6, 1)], {}),
        ("Mean", [(8,), (6, 1)], {}),
        *[("Flatten", [], {"axis": axis}) for axis in (-4, -1, 0, 2, 4)],
        ("Einsum", [(8, 3)], {"equation": "bchw,wk->bkch"}),
    ],
)
def test_single_operations(kind: str, more: list[tuple[int, ...]], attributes: dict[str, Any]) -> None:
    model = single(kind, [IMAGE, *more], **attributes)
    image = np.random.default_rng(1).normal(size=IMAGE).astype(np.float32)
    (right,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": image[None]})
    found = Graph(model).run(torch.from_numpy(image), keep)
    np.testing.assert_allclose(found.numpy(), right.reshape(-1), atol=1e-5)


def on_tokens(nodes: list[Any], constants: dict[str, Any]) -> Any:
    """A graph of an image [1, 4, 6, 8] to y."""
    graph = helper.make_graph(
        nodes,
        "tokens",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, *IMAGE))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(each), name) for name, each in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def node(kind: str, given: str, gives: str, **attributes: Any) -> Any:
    return helper.make_node(kind, given.split(), gives.split(), **attributes)


RANKED = [node("TopK", "x three", "best where", axis=2), node("Neg", "best", "low")]
PLACES = np.array([[0, 1, 2], [0, 3, 5]])
GRID = np.random.default_rng(3).uniform(-1.3, 1.3, (1, 5, 7, 2)).astype(np.float32)
INDEXED = {
    "the likeliest": ([RANKED[0], node("Identity", "best", "y")], {"three": [3]}),
    "the least likely": (
        [node("TopK", "x three", "y where", axis=-1, largest=0)],
        {"three": [3]},
    ),
    "elements by rank": ([RANKED[0], node("GatherElements", "x where", "y", axis=2)], {"three": [3]}),
    "elements from the end": (
        [node("GatherElements", "x places", "y", axis=3)],
        {"places": -1 - np.arange(48).reshape(1, 4, 6, 2) % 8},
    ),
    "elements put back": ([*RANKED, node("ScatterElements", "x where low", "y", axis=2)], {"three": [3]}),
    "an assignment": (
        [node("ScatterND", "x places values", "y")],
        {"places": PLACES, "values": np.ones((2, 8), np.float32)},
    ),
    "the place of the largest": (
        [node("ArgMax", "x", "where", axis=1, keepdims=0), node("Cast", "where", "y", to=TensorProto.FLOAT)],
        {},
    ),
    "rows that the image chooses": (
        [
            node("ArgMin", "x", "least", axis=1, keepdims=0),
            node("Gather", "table least", "y", axis=0),
        ],
        {"table": np.random.default_rng(4).normal(size=(4, 3)).astype(np.float32)},
    ),
    "deformable attention's reading": ([node("GridSample", "x grid", "y")], {"grid": GRID}),
    "reading at corners": (
        [node("GridSample", "x grid", "y", mode="nearest", padding_mode="border", align_corners=1)],
        {"grid": GRID},
    ),
}


@pytest.mark.parametrize("what", list(INDEXED))
def test_picking_and_placing_by_index(what: str) -> None:
    """As ONNX Runtime does, one image or several at once."""
    model = on_tokens(*INDEXED[what])
    images = np.random.default_rng(1).normal(size=(2, *IMAGE)).astype(np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    right = np.stack([session.run(None, {"x": each[None]})[0].reshape(-1) for each in images])
    graph = Graph(model)
    np.testing.assert_allclose(graph.run(torch.from_numpy(images[0]), keep).numpy(), right[0], atol=1e-5)
    np.testing.assert_allclose(graph.outputs(torch.from_numpy(images), keep).numpy(), right, atol=1e-5)


def test_adding_to_what_is_there_is_one_line() -> None:
    values = {"places": PLACES, "values": np.ones((2, 8), np.float32)}
    model = on_tokens([node("ScatterND", "x places values", "y", reduction="add")], values)
    with pytest.raises(EdgevitError, match="it scatters by add, which edgevit doesn't know"):
        Graph(model).run(torch.zeros(IMAGE), keep)
