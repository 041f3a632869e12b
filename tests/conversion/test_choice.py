"""Which way to quantize an artefact was made with is measured, recorded, and the user's own word counts."""

from __future__ import annotations

import json

from tests.conversion.conftest import Project


def test_every_way_tried_is_in_the_manifest_and_the_choice_in_the_summary(project: Project) -> None:
    shown = " ".join(project.convert().stdout.split())
    (result,) = project.manifest()["results"]
    search = result["search"]
    assert [each["label"] for each in search["tried"]] == [
        "dynamic",
        "dynamic_7bit",
        "dynamic_static_convolution",
        "static_linear_convolution",
    ]
    assert all(each["latency_ratio"] > 0 for each in search["tried"])
    assert search["chosen"]["label"] == result["plan"]["options"]["onnxruntime"]["recipe"]
    assert search["max_drop"] == 0.5
    assert f"onnx int8: {search['explanation']}"[:70] in shown


def test_plan_of_the_users_own_is_made_and_measured_alone(project: Project) -> None:
    plan = project.folder / "mine.toml"
    plan.write_text('precision = "int8"\n[options.onnxruntime]\nrecipe = "static_linear_convolution"\n')
    project.convert("--plan", "mine.toml")
    (result,) = project.manifest()["results"]
    assert result["plan"]["options"]["onnxruntime"]["recipe"] == "static_linear_convolution"
    assert [each["label"] for each in result["search"]["tried"]] == ["static_linear_convolution"]
    assert result["search"]["fixed"]


def test_recipe_that_names_a_way_is_taken_at_its_word(project: Project) -> None:
    project.convert("--recipe", "vendor-default")
    (result,) = project.manifest()["results"]
    assert [each["label"] for each in result["search"]["tried"]] == ["dynamic"]
    assert result["search"]["fixed"]


def test_rerun_keeps_the_choice_whatever_the_clock_says(project: Project) -> None:
    project.convert()
    first = project.manifest()["results"][0]
    second = json.loads(project.convert("--json").stdout)["results"][0]
    assert second["search"] == first["search"]
    assert second["sha256"] == first["sha256"]
