"""Smaller models, with another number of heads and neurons in each block, through the vendors' real toolchains."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edgevit.toolchains import environment
from tests.conversion.conftest import Project

pytestmark = [pytest.mark.toolchain, pytest.mark.slow]

LESS = ("--prune-heads", "4", "--prune-mlp", "0.2")
FEW = ("--calibration-images", "64", "--validation-images", "100")


@pytest.fixture(autouse=True)
def installed() -> None:
    for name in ("rknn", "litert"):
        if environment.state(name).problem:
            pytest.skip(f"edgevit toolchain install {name}")


def test_a_smaller_model_passes_through_every_target(project: Project) -> None:
    targets = [part for name in ("rk3588", "rk3566", "tflite", "onnx") for part in ("--target", name)]
    precisions = ("--precision", "float", "--precision", "int8")
    project.run("convert", *targets, *precisions, *LESS, "--resolution", "80", *FEW)
    manifest = project.manifest("runs/demo")
    stages = {each["stage"]: each for each in manifest["reductions"]}
    assert list(stages) == ["80x80 px", "4 heads gone", "384 neurons gone"]
    heads = next(each for each in manifest["stages"] if each["stage"] == "neurons")["metrics"]["structure"]
    assert sum(heads["heads"]) == 11 and len(set(heads["heads"])) > 1
    assert all(count % 32 == 0 for count in heads["neurons"])
    last = stages["384 neurons gone"]["accuracy"]
    assert len(manifest["results"]) == 8
    for result in manifest["results"]:
        assert result["accuracy"]["n"] == 100
        if result["precision"] == "float":
            assert result["accuracy"]["agreement"] == pytest.approx(last["agreement"], abs=0.021)
        else:
            assert result["accuracy"]["agreement"] > last["agreement"] - 0.1


def test_a_smaller_model_is_conditioned_for_int8(project: Project) -> None:
    done = project.run("convert", "--target", "rk3588", *LESS, *FEW, "--recipe", "conditioned")
    manifest = project.manifest("runs/demo")
    export = next(stage for stage in manifest["stages"] if stage["stage"] == "export")
    costs = [manifest["costs"], *(step["costs"] for step in manifest["reductions"])]
    cycles = [each["cycles"] for (each,) in costs]
    assert cycles == sorted(cycles, reverse=True) and cycles[-1] < cycles[0]
    assert f"rk3588 int8 cycles an image (vendor compiler estimate): whole {cycles[0]:,}, " in done.stdout
    assert export["metrics"]["int8"]["conditioning"]
    assert export["metrics"]["max_output_difference"] < 1e-3
    assert manifest["results"][0]["accuracy"]["agreement"] > 0.9


@pytest.mark.parametrize("target", ["rk3588", "rk3566"])
def test_inspect_shows_fewer_cycles_and_bytes(project: Project, target: str) -> None:
    whole, smaller = (
        json.loads(project.run("inspect", "--target", target, "--json", *options).stdout)[0]
        for options in ((), (*LESS, "--resolution", "80"))
    )
    assert smaller["cycles"] < 0.9 * whole["cycles"]
    assert smaller["bytes"] < 0.95 * whole["bytes"]
    assert smaller["weight_bytes"] < 0.9 * whole["weight_bytes"]


def first_of_each(project: Project, run: str) -> dict[str, Any]:
    """The first step of each name: what the artefact is made of, before what is only priced."""
    return {each["stage"]: each for each in reversed(project.manifest(run)["stages"])}


def test_trials_and_prices_by_workers_are_those_of_one_machine(project: Project) -> None:
    asked = ("convert", "--target", "rk3588", *FEW, "--recipe", "conditioned")
    found = []
    for workers in ((), ("--local", "2")):
        project.run(*asked, *workers)
        search = first_of_each(project, "runs/demo")["search-rk3588"]["metrics"]
        prices = project.run("prune-report", "--json", *workers).stdout
        found.append((search["tried"], search["chosen"], prices))
        project.run("cache", "clean", "--all")
    assert found[0] == found[1]
