"""A conversion measures what it made, answers from its cache, and survives being killed."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from edgevit.files import sha256_file
from tests.conversion.conftest import Project


def test_convert_writes_artefacts_manifest_and_summary(project: Project) -> None:
    done = project.convert("--precision", "float", "--precision", "int8")
    manifest = project.manifest()
    assert [result["precision"] for result in manifest["results"]] == ["float", "int8"]
    for result in manifest["results"]:
        artefact = project.folder / "runs" / "model" / result["artefact"]
        assert sha256_file(artefact) == result["sha256"]
        assert result["accuracy"]["n"] == 12
        assert result["how"] == "host CPU"
    assert manifest["results"][0]["accuracy"]["agreement"] == 1
    assert manifest["configuration"]["targets"] == ["onnx"]
    assert manifest["versions"]["torch"]
    assert manifest["peak_memory_mb"] > 50
    assert {"model", "calibration", "validation", "float", "export"} <= {
        s["stage"] for s in manifest["stages"]
    }
    assert "12 validation images" in done.stdout
    assert max(len(line) for line in done.stdout.splitlines()) <= 100


def test_unchanged_rerun_makes_nothing_again(project: Project) -> None:
    project.convert()
    first = project.manifest()
    project.convert()
    second = project.manifest()
    assert not any(stage["cached"] for stage in first["stages"])
    assert all(stage["cached"] for stage in second["stages"])
    assert second["results"][0]["sha256"] == first["results"][0]["sha256"]


@pytest.mark.slow
def test_changed_image_is_noticed(project: Project) -> None:
    project.convert()
    victim = project.folder / "images" / "calibration" / "class0" / "calibration 0.png"
    victim.write_bytes((victim.parent / "calibration 3.png").read_bytes() + b"\0")
    project.convert()
    cached = {stage["stage"]: stage["cached"] for stage in project.manifest()["stages"]}
    assert (cached["validation"], cached["calibration"]) == (True, False)


def test_json_is_the_manifest(project: Project) -> None:
    done = project.convert("--json", "--precision", "float")
    assert json.loads(done.stdout) == project.manifest()


@pytest.mark.slow
def test_dry_run_names_the_stages_and_writes_nothing(project: Project) -> None:
    done = project.convert("--dry-run")
    assert "to do" in done.stdout
    assert not (project.folder / "runs").exists()
    project.convert()
    stages = json.loads(project.convert("--dry-run", "--json").stdout)["stages"]
    assert set(stages.values()) == {"cached"}


def test_float_needs_no_images(project: Project) -> None:
    arguments = ("convert", "model.py:tiny", "--target", "onnx", "--precision", "float")
    done = project.run(*arguments)
    assert "accuracy was not measured" in done.stdout
    assert project.manifest()["results"][0]["accuracy"] is None


def test_unlabelled_validation_still_measures_agreement(project: Project) -> None:
    folder = project.folder / "flat"
    folder.mkdir()
    for path in (project.folder / "images" / "validation").rglob("*.png"):
        (folder / path.name).write_bytes(path.read_bytes())
    project.convert("--validation", "flat")
    accuracy = project.manifest()["results"][0]["accuracy"]
    assert accuracy["top1"] is None
    assert 0 <= accuracy["agreement"] <= 1


def test_missed_gate_is_exit_code_4_and_keeps_the_artefact(project: Project) -> None:
    labels = np.random.default_rng(3).integers(0, 3, 12)
    reference = project.folder / "all.csv"
    paths = sorted((project.folder / "images" / "validation").rglob("*.png"))
    project.convert("--precision", "float")
    step = next(s for s in project.manifest()["stages"] if s["stage"] == "float")
    outputs = np.load(project.folder / "runs" / "model" / "stages" / step["folder"] / "outputs.npy")
    rows = [f"{path},{label}" for path, label in zip(paths, outputs.argmax(1), strict=True)]
    reference.write_text("path,label\n" + "\n".join(rows) + "\n")
    assert len(labels) == len(paths)
    done = project.convert("--validation", "all.csv", "--max-drop", "0", "--precision", "int8", check=None)
    result = project.manifest()["results"][0]
    assert (project.folder / "runs" / "model" / result["artefact"]).exists()
    if result["accuracy"]["drop_points"] > 0:
        assert done.returncode == 4
        assert result["gate"] == "missed"
        assert "error: --max-drop 0 was not met: onnx int8 lost " in done.stderr
    else:
        assert done.returncode == 0
        assert result["gate"] == "met"


@pytest.mark.slow
def test_killed_at_any_moment_the_same_command_finishes_with_the_same_artefact(project: Project) -> None:
    project.convert("--out", "whole")
    expected = project.manifest("whole")["results"][0]["sha256"]
    moments = random.Random(0)
    for attempt in range(5):
        process = subprocess.Popen(
            project.command(*project.convert_arguments("--out", f"killed{attempt}")), cwd=project.folder
        )
        time.sleep(moments.uniform(0.5, 8))
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert_nothing_truncated(project.folder / f"killed{attempt}")
        project.convert("--out", f"killed{attempt}")
        assert project.manifest(f"killed{attempt}")["results"][0]["sha256"] == expected


def assert_nothing_truncated(run: Path) -> None:
    """Every file under a final name is whole: it has the size and content its step recorded."""
    for record in run.glob("stages/[!.]*/step.json"):
        for name, output in json.loads(record.read_text())["outputs"].items():
            assert sha256_file(record.parent / name) == output["sha256"]
    for artefact in run.glob("model-*"):
        assert artefact.stat().st_size > 0


@pytest.mark.slow
def test_interrupt_leaves_nothing_half_written(project: Project) -> None:
    process = subprocess.Popen(
        project.command(*project.convert_arguments()), cwd=project.folder, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not list(project.folder.glob("runs/model/stages/*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "interrupted: finished stages are kept, the same command goes on from there" in stderr.splitlines()
    assert not list(project.folder.glob("runs/model/stages/.*"))
    project.convert()
