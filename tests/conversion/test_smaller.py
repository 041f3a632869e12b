"""A conversion that makes the model smaller first: each step measured, cached, resumed, or refused in one line."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from edgevit.run.store import shared_store
from tests.conversion.conftest import Project

LESS = ("--resolution", "48x32", "--prune-heads", "1", "--prune-mlp", "0.25")


def stages(manifest: dict[str, Any]) -> list[str]:
    return [reduction["stage"] for reduction in manifest["reductions"]]


@pytest.mark.slow
def test_each_step_is_measured_against_the_original(project: Project) -> None:
    project.convert("--precision", "float", "--out", "runs/plain")
    done = project.convert("--precision", "float", *LESS, "--recover", "--recover-minutes", "0.02")
    plain, manifest = project.manifest("runs/plain"), project.manifest()
    assert plain["reductions"] == []
    assert stages(manifest)[:3] == ["48x32 px", "1 heads gone", "64 neurons gone"]
    assert stages(manifest)[3] in ("recovered", "not recovered")
    whole = plain["results"][0]["accuracy"]["reference_top1"]
    for record in [*manifest["reductions"], *manifest["results"]]:
        assert record["accuracy"]["n"] == 12
        assert record["accuracy"]["reference_top1"] == whole
    last = manifest["reductions"][-1]
    found, wanted = manifest["results"][0]["accuracy"], last["accuracy"]
    assert found.pop("others") == wanted.pop("others") == {}
    assert found == pytest.approx(wanted, abs=1e-6)
    parameters = [record["parameters"] for record in manifest["reductions"]]
    assert parameters == sorted(parameters, reverse=True) and len(set(parameters)) == 3
    graph = onnx.load(project.folder / "runs" / "model" / manifest["results"][0]["artefact"]).graph
    assert [each.dim_value for each in graph.input[0].type.tensor_type.shape.dim][2:] == [48, 32]
    for text in ("48x32 px", "1 heads gone", "64 neurons gone", "crop ratio"):
        assert text in done.stdout
    assert manifest["configuration"]["compression"]["heads"] == 1
    assert manifest["configuration"]["compression"]["resolution"] == [48, 32]


@pytest.mark.slow
def test_unchanged_rerun_makes_nothing_smaller_again(project: Project) -> None:
    arguments = ("--precision", "float", *LESS, "--recover", "--recover-minutes", "0.02")
    project.convert(*arguments)
    first = project.manifest()
    project.convert(*arguments)
    second = project.manifest()
    assert all(stage["cached"] for stage in second["stages"])
    assert second["reductions"] == [{**each, "cached": True} for each in first["reductions"]]


@pytest.mark.slow
def test_a_later_wish_starts_from_the_steps_before_it(project: Project) -> None:
    project.convert("--precision", "float", "--resolution", "48")
    project.convert("--precision", "float", "--resolution", "48", "--prune-heads", "1")
    cached = {stage["stage"]: stage["cached"] for stage in project.manifest()["stages"]}
    assert (cached["resolution"], cached["heads"]) == (True, False)


@pytest.mark.slow
def test_int8_is_calibrated_at_the_new_size(project: Project) -> None:
    project.convert("--precision", "int8", "--resolution", "64")
    manifest = project.manifest()
    assert manifest["results"][0]["precision"] == "int8"
    folders = (project.folder / "runs" / "model" / "stages").glob("calibration-*/pixels.npy")
    assert {np.load(path).shape[1:3] for path in folders} == {(64, 64)}


@pytest.mark.slow
def test_amounts_left_to_edgevit_are_explained(project: Project) -> None:
    automatic = ("--resolution", "auto", "--prune-heads", "auto", "--prune-mlp", "auto")
    done = project.convert("--precision", "float", *automatic)
    said = " ".join(done.stdout.split())
    assert said.count("within 0.167 points of predicted drop on") == 3
    looser = project.convert("--precision", "float", *automatic, "--max-drop", "90", check=None)
    assert "within 30 points of predicted drop" in " ".join(looser.stdout.split())


@pytest.mark.slow
def test_other_pictures_can_be_recovered_on(project: Project) -> None:
    random = np.random.default_rng(7)
    (project.folder / "more").mkdir()
    for index in range(16):
        pixels = random.integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(project.folder / "more" / f"{index}.png")
    options = ("--recover", "--recover-minutes", "0.02", "--recover-images", "more")
    project.convert("--precision", "float", "--prune-heads", "1", *options)
    details = project.manifest()["reductions"][-1]["details"]
    assert (details["images"], details["images_from"], details["after"]["n"]) == (12, "more", 4)


def test_recovery_on_validation_images_is_refused(project: Project) -> None:
    shutil.copytree(project.folder / "images" / "validation", project.folder / "more")
    options = ("--prune-heads", "1", "--recover", "--recover-images", "more")
    assert project.error(*options).startswith(
        "calibration and validation images overlap: 12 images are in both, for example "
    )


@pytest.mark.slow
def test_a_killed_recovery_goes_on_where_it_was(project: Project) -> None:
    arguments = project.convert_arguments(
        *("--precision", "float", "--prune-heads", "1", "--recover", "--recover-minutes", "0.6")
    )
    unfinished = shared_store() / "unfinished"
    first = subprocess.Popen(
        project.command(*arguments),
        cwd=project.folder,
        env=project.options["env"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for _ in range(1200):
        if list(unfinished.glob("recovery-*.pt")) or first.poll() is not None:
            break
        time.sleep(0.1)
    first.send_signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    project.run(*arguments)
    details = project.manifest()["reductions"][-1]["details"]
    assert details["resumed"] and details["seconds"] >= 20
    assert not list(unfinished.glob("*"))


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ("--resolution", "50"),
            "cannot change the resolution to 50 px: 50 is not a multiple of patch size 16. Use 48 or 64.",
        ),
        (
            ("--prune-heads", "3"),
            "cannot remove 3 heads: the model has 4 and each of its 2 blocks keeps one. "
            "Use a number from 0 to 2.",
        ),
        (
            ("--prune-mlp", "250"),
            "cannot remove 250 MLP neurons: the model has 256 and each of its 2 blocks keeps 8 or more. "
            "Use a number from 0 to 240.",
        ),
        (
            ("--recover",),
            "cannot recover: nothing was made smaller. "
            "Add --resolution, --prune-heads or --prune-mlp, or leave --recover out.",
        ),
    ],
)
def test_what_cannot_be_done_is_refused(project: Project, arguments: tuple[str, ...], line: str) -> None:
    assert project.error("--precision", "float", *arguments) == line


def test_pruning_without_images_is_refused(project: Project) -> None:
    done = project.run(
        *("convert", "model.py:tiny", "--target", "onnx", "--precision", "float", "--prune-heads", "1"),
        check=1,
    )
    assert done.stderr == (
        "error: cannot make the model smaller: no calibration images to choose by. "
        "Pass --calibration with a folder or CSV of 64 or more typical images.\n"
    )


def test_other_models_are_refused_in_one_line(project: Project) -> None:
    (project.folder / "model.py").write_text(
        "from torch import nn\n"
        "def tiny():\n"
        "    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3))\n"
    )
    line = project.error("--precision", "float", "--prune-heads", "1")
    assert line.endswith(
        "Sequential is not timm's VisionTransformer. "
        "Leave --prune-heads, --prune-mlp and --recover out for this model."
    )


def test_dry_run_shows_the_lossy_steps(project: Project) -> None:
    done = project.convert("--precision", "float", *LESS, "--dry-run", "--json")
    assert json.loads(done.stdout)["stages"]["make smaller"] == "to do"
    assert not (project.folder / "runs").exists()


@pytest.mark.slow
def test_inspect_shows_a_smaller_artefact_without_images(project: Project) -> None:
    def inspected(*arguments: str) -> dict[str, Any]:
        done = project.run("inspect", "model.py:tiny", "--target", "onnx", "--json", *arguments)
        return dict(json.loads(done.stdout)[0])

    whole, smaller = inspected(), inspected("--prune-heads", "2", "--prune-mlp", "0.5")
    assert smaller["bytes"] < whole["bytes"] - 10_000
    done = project.run("inspect", "model.py:tiny", "--target", "onnx", "--prune-heads", "auto", check=1)
    assert done.stderr.splitlines()[-1] == (
        "error: cannot choose --prune-heads auto: there are no calibration images to choose by. Give a number."
    )
