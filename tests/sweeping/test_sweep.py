"""A grid from the command line to its page, by a backend that needs no toolchain."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgevit.sweeping import early, sweep
from tests.conversion.conftest import Project, project  # noqa: F401

pytestmark = pytest.mark.slow
IMAGES = ("--calibration", "images/calibration", "--validation", "images/validation")


def swept(project: Project, *arguments: str, code: int = 0) -> Any:  # noqa: F811
    jobs = () if {"--jobs", "--local"} & {*arguments} else ("--jobs", "1")
    done = project.run("sweep", "model.py:tiny", *IMAGES, "--target", "onnx", *jobs, *arguments, check=code)
    path = project.folder / "runs/sweep/sweep.json"
    return done, json.loads(path.read_text()) if path.is_file() else None


def test_every_point_is_made_compared_and_answered(project: Project) -> None:  # noqa: F811
    done, found = swept(project, "--resolution", "own,32,64", "--precision", "int8,float", "--fps", "30")
    names = [each["name"] for each in found["points"]]
    assert names == [
        "model, onnx int8", "model, onnx float", "model, 64 px, onnx int8", "model, 64 px, onnx float",
    ]  # fmt: skip
    assert all(each["state"] == "done" for each in found["points"])
    assert any(each["best"] for each in found["points"])
    assert "there is no estimate for it" in found["answers"][0]
    page = (project.folder / "runs/sweep/sweep.html").read_text()
    assert "sweep of" in page and "64 px" in page.replace("-", " ")
    assert found["answers"][0].split(";")[0][:40] in " ".join(done.stdout.split())


def test_a_point_that_fails_leaves_the_others(project: Project) -> None:  # noqa: F811
    done, found = swept(project, "--prune-heads", "0,1,99", "--json")
    assert [each["state"] for each in found["points"]] == ["done", "done", "failed"]
    assert "cannot" in found["points"][2]["why"]
    assert json.loads(done.stdout) == found


def test_a_sweep_goes_on_where_it_was(project: Project) -> None:  # noqa: F811
    _, first = swept(project, "--precision", "int8,float")
    _, again = swept(project, "--precision", "int8,float")
    assert first == again
    manifest = project.manifest(first["points"][0]["run"])
    assert all(step["cached"] for step in manifest["stages"])


def test_a_sweep_killed_three_times_ends_the_same(project: Project) -> None:  # noqa: F811
    grid = ("--resolution", "own,64", "--precision", "int8,float", "--every")
    _, whole = swept(project, *grid)
    shutil.rmtree(project.folder / "runs")
    project.run("cache", "clean", "--all")
    line = project.command("sweep", "model.py:tiny", *IMAGES, "--target", "onnx", "--jobs", "1", *grid)
    for points in (1, 2, 3):
        where = {name: project.options[name] for name in ("cwd", "env")}
        process = subprocess.Popen(line, **where, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_for_points(project.folder / "runs/sweep/sweep.json", points, process)
        finally:
            process.kill()
            process.wait()
    _, again = swept(project, *grid)
    assert again == whole


def wait_for_points(path: Path, points: int, process: subprocess.Popen[bytes]) -> None:
    """Until a sweep has made so many points, or has ended."""
    deadline = time.monotonic() + 120
    while process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
        made = json.loads(path.read_text())["points"] if path.is_file() else []
        if len(made) >= points:
            return


@pytest.mark.parametrize("workers", [("--jobs", "2"), ("--local", "2")])
def test_several_processes_find_what_one_finds(project: Project, workers: tuple[str, str]) -> None:  # noqa: F811
    _, one = swept(project, "--precision", "int8,float", "--every")
    project.run("cache", "clean", "--all")
    _, several = swept(project, "--precision", "int8,float", "--every", *workers)
    assert several == one


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sweep", "model.py:tiny", *IMAGES), "cannot sweep: --target was not given"),
        (("sweep", "model.py:tiny", "--target", "onnx"), "cannot sweep: there are no validation images"),
        (("sweep", "a.toml", "--target", "onnx"), "cannot use --target with a.toml: the file says it all"),
        (
            ("sweep", "model.py:tiny", *IMAGES, "--target", "onnx", "--jobs", "2", "--local", "2"),
            "cannot sweep: --jobs and --local say two things",
        ),
        (("sweep", "absent.py:f", *IMAGES, "--target", "onnx"), "nothing to sweep: cannot load absent.py:f"),
        (("sweep", "model.py:tiny", *IMAGES, "--target", "rk9999"), "unknown target 'rk9999'"),
        (
            ("sweep", "model.py:tiny", *IMAGES, "--validation", "nowhere", "--target", "onnx", "--jobs", "1"),
            "nothing to sweep: cannot read images from nowhere: no such file or folder. Check the path. Correct",
        ),
    ],
)
def test_what_can_not_be_swept_is_one_line(project: Project, arguments: Any, message: str) -> None:  # noqa: F811
    done = project.run(*arguments, check=1)
    assert message in done.stderr.splitlines()[-1]


def test_heads_that_go_are_chosen_once_for_all_sizes_and_amounts(project: Project) -> None:  # noqa: F811
    _, found = swept(project, "--resolution", "own,64", "--prune-heads", "0,1,2")
    assert all(each["state"] == "done" for each in found["points"])
    gone = [
        [(each["block"], each["head"]) for each in stage["metrics"]["details"]["removed"]]
        for point in found["points"]
        for stage in project.manifest(point["run"])["stages"]
        if stage["stage"] == "heads"
    ]
    assert [len(each) for each in gone] == [1, 2, 1, 2]
    assert gone[0] == gone[2] == gone[1][:1] and gone[1] == gone[3]
    steps = list((project.folder / "cache").rglob("step.json"))
    assert sum(json.loads(step.read_text())["stage"] == "head-order" for step in steps) <= 1


def test_a_point_is_what_a_conversion_alone_gives(project: Project) -> None:  # noqa: F811
    _, found = swept(project, "--resolution", "own,64", "--prune-heads", "0,1", "--jobs", "2")
    project.run("cache", "clean", "--all")
    smaller = ("--resolution", "64", "--prune-heads", "1")
    project.run("convert", "model.py:tiny", *IMAGES, "--target", "onnx", *smaller, "--out", "runs/alone")
    here, alone = (project.manifest(run)["results"][0] for run in (found["points"][3]["run"], "runs/alone"))
    assert here["sha256"] == alone["sha256"] and here["accuracy"] == alone["accuracy"]


def test_few_images_come_before_many(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr(early, "FEW", 2)
    monkeypatch.setattr(early, "TIMES", 2)
    done, found = swept(project, "--precision", "int8,float")
    every = swept(project, "--precision", "int8,float", "--every")[1]
    assert found["points"] == every["points"] and found["points"][0]["n"] == 12
    on_two = project.manifest("runs/sweep/on-2-images/points/model-onnx-float")
    assert on_two["results"][0]["accuracy"]["n"] == 2
    assert "on 2 images: model, onnx float" in done.stderr and "on 4 images" in done.stderr
    assert not (project.folder / "runs/sweep/on-8-images").exists()


def test_what_loses_more_on_few_images_is_not_made_on_many(
    project: Project,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(early, "FEW", 2)
    monkeypatch.setattr(early, "TIMES", 2)
    real = sweep.row_of

    def row_of(point: Any, run: Any, result: Any) -> Any:
        worse = {"low": 60.0, "drop": 70.0, "high": 80.0, "ms": 2.0, "ms_low": 2.0, "ms_high": 2.0}
        better = {"low": 0.0, "drop": 1.0, "high": 2.0, "ms": 1.0, "ms_low": 1.0, "ms_high": 1.0}
        return replace(real(point, run, result), **worse if point.precision == "float" else better)

    monkeypatch.setattr(sweep, "row_of", row_of)
    _, found = swept(project, "--precision", "int8,float")
    left_out = found["points"][1]
    assert left_out["state"] == "skipped"
    assert left_out["why"] == "model, onnx int8 costs no more and loses less"
    assert not (project.folder / "runs/sweep/points/model-onnx-float").exists()
