"""The bundled model through the vendors' real toolchains."""

from __future__ import annotations

import json

import pytest

from edgevit.toolchains import environment
from tests.conversion.conftest import Project

pytestmark = [pytest.mark.toolchain, pytest.mark.slow]


@pytest.fixture(autouse=True)
def installed() -> None:
    for name in ("rknn", "litert"):
        if environment.state(name).problem:
            pytest.skip(f"edgevit toolchain install {name}")


def test_bundled_model_converts_for_every_backend_and_keeps_its_accuracy(project: Project) -> None:
    targets = ("--target", "rk3588", "--target", "tflite", "--target", "onnx")
    done = project.run("convert", *targets, "--max-drop", "2")
    results = {result["target"]: result for result in project.manifest("runs/demo")["results"]}
    assert {name: result["how"] for name, result in results.items()} == {
        "rk3588": "vendor simulator",
        "tflite": "host CPU",
        "onnx": "host CPU",
    }
    for result in results.values():
        assert result["accuracy"]["n"] == 400
        assert result["accuracy"]["reference_top1"] >= 0.98
        assert result["accuracy"]["agreement"] > 0.97
        assert result["gate"] == "met"
    assert results["rk3588"]["details"]["placement"]["cpu_layers"] == 0
    artefact = project.folder / "runs/demo" / results["rk3588"]["artefact"]
    assert b'{"made_by":"edgevit","input":{"size":' in artefact.read_bytes()
    assert results["tflite"]["details"]["partitions"] == 1
    assert "runs/demo" in done.stdout


def test_conditioned_recipe_is_realised_in_the_vendors_table(project: Project) -> None:
    project.run("convert", "--target", "rk3588", "--recipe", "conditioned", "--validation-images", "100")
    manifest = project.manifest("runs/demo")
    export = next(stage for stage in manifest["stages"] if stage["stage"] == "export")
    assert export["metrics"]["int8"]["conditioning"]
    assert export["metrics"]["max_output_difference"] < 1e-3
    assert manifest["results"][0]["accuracy"]["agreement"] > 0.97


def test_a_vit_that_conditioning_does_not_know_is_quantized_without(project: Project) -> None:
    source = (project.folder / "model.py").read_text()
    (project.folder / "model.py").write_text(
        source.replace("num_classes=3", "num_classes=3, scale_mlp_norm=True")
    )
    done = project.convert("--target", "rk3588")
    manifest = project.manifest()
    export = next(stage for stage in manifest["stages"] if stage["stage"] == "export")
    assert list(export["metrics"]["int8"]) == ["conditioning"]
    assert "fold-norms" in [record["name"] for record in export["metrics"]["rewrites"]]
    line = "int8 for NPUs is prepared on the graph, not on the module: blocks.0.mlp has a norm of its own"
    assert line in manifest["model"]["notes"]
    assert line in " ".join(done.stdout.split())


def test_layer_norms_stay_on_an_npu_that_has_no_kernel_for_them(project: Project) -> None:
    project.run("convert", "--target", "rv1106", "--validation-images", "100")
    manifest = project.manifest("runs/demo")
    (result,) = manifest["results"]
    assert result["accuracy"]["agreement"] > 0.95
    layers = result["details"]["placement"]["layers"]
    assert not [layer["op"] for layer in layers if layer["op"] == "exNorm"]
    assert {layer["op"] for layer in layers} >= {"ConvElu", "ConvMul"}


def test_int8_squares_are_left_to_models_with_a_rotated_stream(project: Project) -> None:
    project.run("convert", "--target", "rv1106", "--recipe", "vendor-default", "--validation-images", "20")
    export = next(stage for stage in project.manifest("runs/demo")["stages"] if stage["stage"] == "export")
    names = [record["name"] for record in export["metrics"]["rewrites"]]
    assert "trim-tokens" in names
    assert "norms-by-exponentials" not in names


def test_inspect_shows_that_the_rewrites_pay(project: Project) -> None:
    done = project.run("inspect", "--target", "rk3588", "--before-after", "--json")
    plain, edgevit = json.loads(done.stdout)
    assert (plain["variant"], edgevit["variant"]) == ("plain export", "edgevit")
    assert edgevit["cycles"] < 0.5 * plain["cycles"]
    assert edgevit["cpu_ops"] == []
    assert sum(layer["cycles_total"] for layer in edgevit["layers"]) == edgevit["cycles"]
    shown = project.run("inspect", "--target", "rk3588").stdout
    assert f"{edgevit['cycles']:,} cycles an image (vendor compiler estimate)" in shown
    assert "every op runs on the NPU" in shown


def test_inspect_names_the_ops_outside_the_delegate(project: Project) -> None:
    record = json.loads(project.run("inspect", "--target", "tflite", "--json").stdout)[0]
    assert record["partitions"] == 1
    assert record["outside"] == {}
    assert record["operations"]["FULLY_CONNECTED"] > 10


def test_a_plan_is_written_edited_and_taken_back(project: Project) -> None:
    project.convert("--target", "rk3588", "--search-minutes", "0")
    written = project.folder / "runs" / "model" / "model-rk3588-int8.plan.toml"
    text = written.read_text()
    assert "sixteen_bit = [\n]" in text
    edited = project.folder / "mine.toml"
    edited.write_text(text.replace("sixteen_bit = [\n]", 'sixteen_bit = ["embed", "blocks.0.norm1"]'))
    project.convert("--target", "rk3588", "--plan", "mine.toml")
    manifest = project.manifest()
    assert manifest["results"][0]["plan"]["sixteen_bit"] == ["embed", "blocks.0.norm1"]
    placement = manifest["results"][0]["details"]["placement"]
    assert any(layer["dtype"] == "FLOAT16" for layer in placement["layers"])
    edited.write_text(text.replace("sixteen_bit = [\n]", 'sixteen_bit = ["embeds"]'))
    assert project.error("--target", "rk3588", "--plan", "mine.toml") == (
        "cannot realise --plan for rk3588: the model has no tensor embeds. Rename it to embed."
    )
