"""The ONNX Runtime backend: the graph itself, or the vendor's dynamic int8."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from edgevit import torch_setup  # noqa: F401
from edgevit.backends.onnxruntime import backend, costly, recipes
from edgevit.backends.protocol import CompileRequest
from edgevit.backends.trials import Candidate, TrialRequest
from edgevit.errors import InputError
from edgevit.export import export_onnx
from edgevit.files import sha256_file
from edgevit.images.preprocessing import Preprocessing
from edgevit.progress import Quiet
from edgevit.quantize.plan import PrecisionPlan, read_plan
from edgevit.targets.profiles import Board

from timm.models.vision_transformer import VisionTransformer  # isort: skip

PREPROCESSING = Preprocessing(size=(32, 32))
BOARD = Board(id="onnx", name="ONNX Runtime", backend="onnxruntime", source="test")


def tiny() -> nn.Module:
    torch.manual_seed(0)
    model = VisionTransformer(img_size=32, patch_size=16, embed_dim=48, depth=2, num_heads=3, num_classes=7)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model.eval().requires_grad_(False)


def request(folder: Path, precision: str, *, evaluate: bool = True) -> CompileRequest:
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    np.save(folder / "pixels.npy", pixels)
    (folder / "out").mkdir()
    return CompileRequest(
        onnx=export_onnx(tiny(), (32, 32), 3, folder / "float.onnx"),
        vendor_float=None,
        plan=PrecisionPlan(precision=precision),
        board=BOARD,
        preprocessing=PREPROCESSING,
        calibration=folder / "pixels.npy",
        evaluate=folder / "pixels.npy" if evaluate else None,
        out=folder / "out",
    )


def torch_outputs(folder: Path) -> np.ndarray:
    inputs = PREPROCESSING.normalise(np.load(folder / "pixels.npy"))
    with torch.inference_mode():
        return tiny()(torch.from_numpy(inputs)).numpy()


def test_float_artefact_is_the_graph_itself_and_agrees_with_torch(tmp_path: Path) -> None:
    asked = request(tmp_path, "float")
    result = backend.make(asked, Quiet())
    assert asked.onnx is not None
    assert sha256_file(result.artefact) == sha256_file(asked.onnx)
    assert result.outputs is not None
    outputs = np.load(result.outputs)
    assert (outputs.shape, outputs.dtype) == ((5, 7), np.float32)
    np.testing.assert_allclose(outputs, torch_outputs(tmp_path), atol=1e-4)
    assert result.how == "host CPU"
    assert set(result.tools) == {"onnx", "onnxruntime"}


def test_int8_artefact_is_smaller_close_and_has_int8_matmuls(tmp_path: Path) -> None:
    asked = request(tmp_path, "int8")
    result = backend.make(asked, Quiet())
    ops = [node.op_type for node in onnx.load(result.artefact).graph.node]
    assert ops.count("MatMulInteger") == 2 * 4 + 1  # qkv, proj, fc1, fc2 of each block, and the head
    assert asked.onnx is not None
    assert result.artefact.stat().st_size < 0.7 * asked.onnx.stat().st_size
    assert result.outputs is not None
    outputs, expected = np.load(result.outputs), torch_outputs(tmp_path)
    assert not np.array_equal(outputs, expected)
    cosine = (outputs * expected).sum(1) / np.linalg.norm(outputs, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosine.min() > 0.99


@pytest.mark.parametrize("precision", ["float", "int8"])
def test_same_request_gives_the_same_bytes_and_nothing_else_in_the_folder(
    tmp_path: Path, precision: str
) -> None:
    first, second = (
        backend.make(request(tmp_path / name, precision, evaluate=False), Quiet()) for name in ("a", "b")
    )
    assert first.outputs is None
    assert sha256_file(first.artefact) == sha256_file(second.artefact)
    assert [path.name for path in (tmp_path / "a" / "out").iterdir()] == ["model.onnx"]


def trial(folder: Path) -> TrialRequest:
    asked = request(folder, "int8")
    assert asked.onnx is not None
    return TrialRequest(
        source_model=asked.onnx,
        candidates=backend.candidates("cpu"),
        preprocessing=PREPROCESSING,
        fit=asked.calibration,
        held_out=asked.calibration,
        timed=True,
        out=asked.out,
    )


def test_every_way_is_made_run_and_timed_beside_float(tmp_path: Path) -> None:
    trials = backend.measure(trial(tmp_path), Quiet())
    np.testing.assert_allclose(trials.reference, torch_outputs(tmp_path), atol=1e-4)
    assert [each.label for each in trials.tried] == [each.label for each in backend.candidates("cpu")]
    for each in trials.tried:
        assert each.failure is None
        assert len(each.latencies_ms) == len(trials.float_ms) >= 7
        assert min(each.latencies_ms) > 0
        assert each.outputs is not None
        cosine = (each.outputs * trials.reference).sum(1)
        cosine /= np.linalg.norm(each.outputs, axis=1) * np.linalg.norm(trials.reference, axis=1)
        assert cosine.min() > 0.98
        assert not np.array_equal(each.outputs, trials.reference)


def test_way_the_vendors_tools_refuse_is_a_failed_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("no such type")

    monkeypatch.setitem(recipes.RECIPES, "dynamic", refuse)
    trials = backend.measure(trial(tmp_path), Quiet())
    assert trials.tried[0].failure == "RuntimeError: no such type"
    assert trials.tried[0].outputs is None
    assert trials.tried[1].outputs is not None


@pytest.mark.parametrize(
    ("recipe", "kept"),
    [
        ("dynamic", {"Conv": 1, "MatMulInteger": 9}),
        ("static_linear_convolution", {"Conv": 1, "MatMulInteger": 0}),
    ],
)
def test_attentions_own_products_stay_float(tmp_path: Path, recipe: str, kept: dict[str, int]) -> None:
    asked = request(tmp_path, "int8")
    plan = PrecisionPlan(precision="int8", options={"onnxruntime": {"recipe": recipe}})
    graph = onnx.load(backend.make(dataclasses.replace(asked, plan=plan), Quiet()).artefact).graph
    makers = {output: node for node in graph.node for output in node.output}
    ops = [node.op_type for node in graph.node]
    assert {name: ops.count(name) for name in kept} == kept
    constants = {each.name for each in graph.initializer}
    products = [
        node
        for node in graph.node
        if node.op_type == "MatMul" and makers.get(node.input[1], node).op_type != "DequantizeLinear"
    ]
    assert len(products) == 4  # q k and p v of each block
    assert not any(node.input[1] in constants for node in products)


def test_recipe_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    plan = PrecisionPlan(precision="int8", options={"onnxruntime": {"recipe": "dinamic"}})
    with pytest.raises(InputError) as caught:
        backend.make(dataclasses.replace(request(tmp_path, "int8"), plan=plan), Quiet())
    assert str(caught.value) == (
        "cannot use a plan: options.onnxruntime: recipe: input should be 'dynamic', 'dynamic_7bit', "
        "'dynamic_static_convolution' or 'static_linear_convolution'. Correct the value."
    )


def massive(folder: Path) -> CompileRequest:
    """A model one of whose layers takes values so far apart that 8 bits lose the small ones."""
    asked = request(folder, "int8")
    assert asked.onnx is not None
    model = tiny()
    with torch.no_grad():
        mlp = model.blocks[1].mlp
        mlp.fc1.weight[0], mlp.fc1.bias[0] = 0.0, 900.0
        mlp.fc2.weight[:, 0] = 0.0
    export_onnx(model, (32, 32), 3, asked.onnx)
    return asked


def test_the_layer_that_costs_most_is_left_in_float(tmp_path: Path) -> None:
    asked = massive(tmp_path)
    assert asked.onnx is not None
    trial = TrialRequest(
        asked.onnx, (), PREPROCESSING, asked.calibration, asked.calibration, timed=False, out=asked.out
    )
    first = costly.sparing(trial, Candidate("dynamic", ""), Quiet())[-1]
    assert first.own_options["float_layers"][0].endswith("blocks.1/mlp/fc2/MatMul")
    tried = backend.measure(dataclasses.replace(trial, candidates=(first, Candidate("dynamic", ""))), Quiet())
    errors = [np.abs(each.outputs - tried.reference).max() for each in tried.tried]
    assert errors[0] < errors[1] / 4


def test_layers_named_in_a_plan_stay_in_float(tmp_path: Path) -> None:
    asked = request(tmp_path, "int8")
    layers = recipes.with_weights(asked.onnx, recipes.LINEAR)
    options = {"onnxruntime": {"recipe": "dynamic", "float_layers": layers[:2]}}
    plan = PrecisionPlan(precision="int8", options=options)
    (tmp_path / "plan.toml").write_text(plan.to_toml(), encoding="utf-8")
    plan = read_plan(tmp_path / "plan.toml")
    result = backend.make(dataclasses.replace(asked, plan=plan), Quiet())
    ops = [node.op_type for node in onnx.load(result.artefact).graph.node]
    assert ops.count("MatMulInteger") == len(layers) - 2


def test_layer_that_the_graph_has_not_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    asked = request(tmp_path, "int8")
    layer = recipes.with_weights(asked.onnx, recipes.LINEAR)[0]
    options = {"onnxruntime": {"float_layers": [f"{layer}x"]}}
    plan = PrecisionPlan(precision="int8", options=options)
    with pytest.raises(InputError) as caught:
        backend.make(dataclasses.replace(asked, plan=plan), Quiet())
    assert str(caught.value) == (
        f"cannot leave {layer}x in float: the graph has no layer of that name. Rename it to {layer}."
    )
    assert list(asked.out.iterdir()) == []
