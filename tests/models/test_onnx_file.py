"""Models from .onnx files: what is taken, and the one line for each that isn't."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from edgevit.errors import EdgevitError, InputError
from edgevit.models import load_model

Change = Callable[[onnx.ModelProto], None]


def classifier(
    dims: tuple[object, ...] = ("n", 3, 16, 16), opset: int = 17, kind: int = TensorProto.FLOAT
) -> onnx.ModelProto:
    """Mean colour to four outputs."""
    values = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    axes = [2, 3] if dims[1] == 3 else [1, 2]
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], axes=axes, keepdims=0),
        helper.make_node("MatMul", ["mean", "weight"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", kind, dims)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, (dims[0], 4))],
        [numpy_helper.from_array(values, "weight")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def write(path: Path, model: onnx.ModelProto | None = None, change: Change | None = None) -> Path:
    model = model or classifier()
    if change is not None:
        change(model)
    onnx.save(model, path)
    return path


def answers(path: Path, images: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        found: np.ndarray = load_model(str(path)).module(torch.from_numpy(images)).numpy()
    return found


def expected(images: np.ndarray) -> np.ndarray:
    weight = numpy_helper.to_array(classifier().graph.initializer[0])
    product: np.ndarray = images.mean((2, 3)) @ weight
    return product


IMAGES = np.random.default_rng(1).standard_normal((5, 3, 16, 16)).astype(np.float32)


@pytest.mark.parametrize("opset", [11, 13, 17])
@pytest.mark.parametrize("batch", ["n", 1, 8])
def test_a_graph_gives_one_output_row_an_image(tmp_path: Path, opset: int, batch: object) -> None:
    path = write(tmp_path / "model.onnx", classifier((batch, 3, 16, 16), opset))
    np.testing.assert_allclose(answers(path, IMAGES), expected(IMAGES), atol=1e-5)
    loaded = load_model(str(path))
    assert (loaded.num_classes, loaded.canonical, loaded.preprocessing.size) == (4, False, (16, 16))
    assert loaded.graph is not None and loaded.source == f"ONNX file model.onnx, opset {opset}"
    assert sum(each.numel() for each in loaded.module.parameters()) == 12


def test_one_number_an_image_may_have_no_axis_of_its_own(tmp_path: Path) -> None:
    model = classifier()
    model.graph.node.append(helper.make_node("ReduceMax", ["logits"], ["age"], axes=[1], keepdims=0))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("age", TensorProto.FLOAT, ("n",)))
    loaded = load_model(str(write(tmp_path / "model.onnx", model)))
    assert [(each.name, each.kind, each.shape) for each in loaded.outputs.each] == [
        ("tensor", "tensor", (1,))
    ]
    found = loaded.module(torch.from_numpy(IMAGES))
    np.testing.assert_allclose(found.numpy(), expected(IMAGES).max(1, keepdims=True), atol=1e-5)


def test_channels_last_images_are_turned_inside_the_graph(tmp_path: Path) -> None:
    path = write(tmp_path / "model.onnx", classifier(("n", 16, 16, 3)))
    np.testing.assert_allclose(answers(path, IMAGES), expected(IMAGES), atol=1e-5)
    assert any("a transpose is put in front" in note for note in load_model(str(path)).notes)


def test_weights_may_lie_beside_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(classifier(), path, save_as_external_data=True, location="model.data", size_threshold=0)
    np.testing.assert_allclose(answers(path, IMAGES), expected(IMAGES), atol=1e-5)


def test_old_files_list_weights_among_the_inputs(tmp_path: Path) -> None:
    def listed(model: onnx.ModelProto) -> None:
        model.graph.input.append(helper.make_tensor_value_info("weight", TensorProto.FLOAT, (3, 4)))

    np.testing.assert_allclose(
        answers(write(tmp_path / "m.onnx", change=listed), IMAGES), expected(IMAGES), atol=1e-5
    )


def test_a_size_fixes_what_the_graph_leaves_open(tmp_path: Path) -> None:
    path = write(tmp_path / "model.onnx", classifier(("n", 3, "h", "w")))
    assert load_model(str(path), size=(32, 48)).preprocessing.size == (32, 48)
    with pytest.raises(InputError, match="at 8x8: it takes 16x16"):
        load_model(str(write(path)), size=(8, 8))


def test_the_preprocessor_beside_a_file_is_used(tmp_path: Path) -> None:
    values = {
        "size": {"height": 16, "width": 16},
        "image_mean": [0.5] * 3,
        "image_std": [0.25] * 3,
        "resample": 2,
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(values))
    preprocessing = load_model(str(write(tmp_path / "model.onnx"))).preprocessing
    assert (preprocessing.mean, preprocessing.std) == ((0.5,) * 3, (0.25,) * 3)
    assert preprocessing.interpolation == "bilinear"


def test_one_weight_changed_is_another_model(tmp_path: Path) -> None:
    def changed(model: onnx.ModelProto) -> None:
        model.graph.node[1].input[:] = ["mean", "other"]
        model.graph.initializer[0].name = "other"

    one = repr(load_model(str(write(tmp_path / "a.onnx"))).module)
    assert one == repr(load_model(str(write(tmp_path / "b.onnx"))).module)
    assert one != repr(load_model(str(write(tmp_path / "c.onnx", change=changed))).module)


def quantized(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type = "DynamicQuantizeLinear"


def unknown(model: onnx.ModelProto) -> None:
    model.graph.node[0].domain = "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))


def another(kind: str) -> Change:
    def change(model: onnx.ModelProto) -> None:
        getattr(model.graph, kind).append(helper.make_tensor_value_info("mean", TensorProto.FLOAT, ("n", 3)))

    return change


REFUSED = [
    (classifier(opset=9), None, "it is of opset 9", "opset 11 or later"),
    (classifier(), quantized, "quantized already", "Give the float model"),
    (classifier(), unknown, "ONNX Runtime refuses it", "Export it again"),
    (classifier(), another("input"), "2 inputs (image, mean)", "one input"),
    (classifier(kind=TensorProto.FLOAT16), None, "its input image is float16, not float", "float32"),
    (classifier(kind=TensorProto.UINT8), None, "its input image is uint8, not float", "float32"),
    (classifier(("n", 3, 16)), None, "its input image is [n, 3, 16]", "[n, 3, height, width]"),
    (classifier(("n", 3, "h", 16)), None, "[n, 3, h, 16]: height and width are not fixed", "one size"),
    (classifier(("n", 4, 16, 16)), None, "its input image is [n, 4, 16, 16]", "[n, 3, height, width]"),
]  # fmt: skip


@pytest.mark.parametrize(("model", "change", "why", "fix"), REFUSED)
def test_graphs_that_are_no_float_classifier_get_one_line(
    tmp_path: Path, model: onnx.ModelProto, change: Change | None, why: str, fix: str
) -> None:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    path = write(tmp_path / "model.onnx", copy, change)
    with pytest.raises(InputError) as caught:
        load_model(str(path))
    error = caught.value
    assert why in error.why and fix in error.fix and error.what.startswith(f"cannot load {path}")
    assert "\n" not in str(error)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40])


FILES: list[tuple[str, Callable[[Path], object], str]] = [
    ("missing", lambda path: path.unlink(), "no such file"),
    ("empty", lambda path: path.write_bytes(b""), "the file is empty"),
    ("text", lambda path: path.write_text("<html>404 not found</html>" * 9), "it is a text file"),
    ("pointer", lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"), "Git LFS pointer"),
    ("noise", lambda path: path.write_bytes(bytes(range(256)) * 9), "damaged or not an ONNX model"),
    ("truncated", truncated, "damaged or not an ONNX model"),
    ("folder", lambda path: (path.unlink(), path.mkdir()), "it is a directory"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "spoil", "why"), FILES, ids=[each[0] for each in FILES])
def test_broken_files_get_one_line(
    tmp_path: Path, name: str, spoil: Callable[[Path], object], why: str
) -> None:
    path = write(tmp_path / "model.onnx")
    spoil(path)
    with pytest.raises(InputError) as caught:
        load_model(str(path))
    assert why in caught.value.why


def external(folder: Path) -> Path:
    path = folder / "model.onnx"
    onnx.save(classifier(), path, save_as_external_data=True, location="model.data", size_threshold=0)
    return path


def test_a_missing_weights_file_is_named(tmp_path: Path) -> None:
    path = external(tmp_path)
    (tmp_path / "model.data").unlink()
    with pytest.raises(InputError, match="its weights file model.data is missing.*Copy it beside model.onnx"):
        load_model(str(path))


def test_a_weights_file_that_is_too_short_is_refused(tmp_path: Path) -> None:
    path = external(tmp_path)
    truncated(tmp_path / "model.data")
    with pytest.raises(InputError):
        load_model(str(path))


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", ""])
def test_weights_outside_the_models_folder_are_not_read(tmp_path: Path, location: str) -> None:
    (tmp_path / "inside").mkdir()
    path = external(tmp_path / "inside")
    shutil.move(tmp_path / "inside" / "model.data", tmp_path / "secret")
    model = onnx.load(path, load_external_data=False)
    model.graph.initializer[0].external_data[0].value = location
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match="its weights point outside its folder"):
        load_model(str(path))


def test_a_graph_brings_its_own_weights(tmp_path: Path) -> None:
    with pytest.raises(EdgevitError, match="brings its own weights"):
        load_model(str(write(tmp_path / "model.onnx")), tmp_path / "weights.safetensors")
