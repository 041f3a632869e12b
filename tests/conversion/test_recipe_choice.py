"""Which images fit and judge, whose word counts, and what a choice leaves behind."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgevit.backends import registry
from edgevit.backends.litert.backend import LITERT
from edgevit.backends.litert.recipes import DELEGATES
from edgevit.backends.onnxruntime.backend import ONNXRUNTIME
from edgevit.backends.trials import Candidate, Quantizers, Trial, TrialRequest, Trials
from edgevit.conversion import recipe_choice
from edgevit.conversion.recipe_choice import Choosing, choose_plan, fixed_recipe, split
from edgevit.images.preprocessing import Preprocessing
from edgevit.metrics.acceptance import Acceptance
from edgevit.outputs.output import CLASS_SCORES
from edgevit.progress import Progress, Quiet
from edgevit.quantize.plan import PrecisionPlan, read_plan
from edgevit.targets.profiles import Recipe, load_board, load_recipe


@pytest.fixture
def asked() -> Iterator[list[TrialRequest]]:
    """Requests to a backend whose second way is three times as fast as its first, and slower than float."""
    requests: list[TrialRequest] = []

    def candidates(delegate: str) -> tuple[Candidate, ...]:
        return (
            (Candidate("slow", ""), Candidate("fast", "")) if delegate == "cpu" else (Candidate("int8", ""),)
        )

    def measure(request: TrialRequest, progress: Progress) -> Trials:
        requests.append(request)
        outputs = np.eye(5, dtype=np.float32)[np.arange(len(np.load(request.held_out))) % 5] * 20
        times = {"slow": 30.0, "fast": 10.0}
        tried = [
            Trial(each.label, outputs, (times.get(each.label, 1.0),) * 9 if request.timed else ())
            for each in request.candidates
        ]
        (request.out / "0.tflite").write_bytes(b"large")
        return Trials(outputs, (5.0,) * 9 if request.timed else (), tuple(tried))

    quantizers = Quantizers(("cpu", "npu"), candidates, measure)
    with registry.registered(replace(LITERT, quantizers=quantizers)):
        yield requests


def make(folder: Path, images: int = 64, **changes: Any) -> Choosing:
    np.save(folder / "pixels.npy", np.arange(images, dtype=np.uint8)[:, None, None, None])
    plain = Choosing(
        source_model=folder / "model.pt2",
        board=load_board("tflite"),
        delegate="cpu",
        preprocessing=Preprocessing(size=(1, 1), mean=(0.5,), std=(0.5,)),
        calibration=folder / "pixels.npy",
        plan=PrecisionPlan(precision="int8"),
        fixed=None,
        acceptance=Acceptance(0.5),
        outputs=CLASS_SCORES,
    )
    return replace(plain, **changes)


def test_fastest_way_is_written_into_the_plan(tmp_path: Path, asked: list[TrialRequest]) -> None:
    progress = Quiet()
    found = choose_plan(make(tmp_path), tmp_path, progress)
    plan = read_plan(tmp_path / "plan.toml")
    assert (plan.precision, plan.options["litert"]["recipe"]) == ("int8", "fast")
    assert found["chosen"]["label"] == "fast"
    assert [each["label"] for each in found["tried"]] == ["slow", "fast"]
    assert (found["n"], found["max_drop"], found["fixed"]) == (48, 0.5, False)
    assert [text.partition(":")[2][:45] for text in progress.warnings] == [
        " THE QUANTIZED MODEL IS SLOWER THAN FLOAT: 2."
    ]
    assert list(tmp_path.rglob("*.tflite")) == []


def test_where_no_way_keeps_the_target_the_closest_is_spared_its_costliest_layers(tmp_path: Path) -> None:
    tried: list[list[str]] = []

    def measure(request: TrialRequest, progress: Progress) -> Trials:
        tried.append([each.label for each in request.candidates])
        outputs = np.eye(5, dtype=np.float32)[np.arange(len(np.load(request.held_out))) % 5] * 20
        wrong = np.roll(outputs, 1, axis=1)
        found = [
            Trial(each.label, outputs if "float" in each.label else wrong, (2.0,) * 9)
            for each in request.candidates
        ]
        return Trials(outputs, (5.0,) * 9, tuple(found))

    def sparing(request: TrialRequest, closest: Candidate, progress: Progress) -> tuple[Candidate, ...]:
        return (
            Candidate(
                f"{closest.label}, 2 layers in float", "", {"recipe": closest.label, "float_layers": ["a"]}
            ),
        )

    ways = (Candidate("dynamic", ""), Candidate("dynamic_7bit", ""))
    quantizers = Quantizers(("cpu",), lambda delegate: ways, measure, sparing)
    with registry.registered(replace(ONNXRUNTIME, quantizers=quantizers)):
        found = choose_plan(make(tmp_path, board=load_board("onnx")), tmp_path, Quiet())
    assert tried == [["dynamic", "dynamic_7bit"], ["dynamic, 2 layers in float", "dynamic"]]
    options = read_plan(tmp_path / "plan.toml").options["onnxruntime"]
    assert options == {"recipe": "dynamic", "float_layers": ["a"]}
    assert [each["label"] for each in found["tried"]] == [
        "dynamic_7bit", "dynamic, 2 layers in float", "dynamic"
    ]  # fmt: skip


def test_no_image_both_fits_and_judges(tmp_path: Path, asked: list[TrialRequest], monkeypatch: Any) -> None:
    monkeypatch.setattr(recipe_choice, "clear", lambda work: None)
    choose_plan(make(tmp_path), tmp_path, Quiet())
    fitted, judged = (set(np.load(path).ravel()) for path in (asked[0].fit, asked[0].held_out))
    assert (len(fitted), len(judged)) == (16, 48)
    assert not fitted & judged


def test_way_the_user_names_is_measured_alone(tmp_path: Path, asked: list[TrialRequest]) -> None:
    found = choose_plan(make(tmp_path, fixed="slow"), tmp_path, Quiet())
    assert [each.label for each in asked[0].candidates] == ["slow"]
    assert read_plan(tmp_path / "plan.toml").options["litert"]["recipe"] == "slow"
    assert found["fixed"]
    assert found["warning"].startswith("tflite: THE QUANTIZED MODEL IS SLOWER THAN FLOAT")


def test_npu_is_not_timed_on_this_machine(tmp_path: Path, asked: list[TrialRequest]) -> None:
    found = choose_plan(make(tmp_path, delegate="npu"), tmp_path, Quiet())
    assert not asked[0].timed
    assert found["chosen"]["latency_ratio"] is None
    assert found["explanation"].endswith("not timed: this machine is not the target")


@pytest.mark.parametrize(
    ("count", "fitted", "judged"),
    [(1, 1, 1), (7, 7, 7), (8, 2, 6), (64, 16, 48), (128, 32, 96), (512, 32, 192)],
)
def test_split(count: int, fitted: int, judged: int) -> None:
    fit, judge = split(count, 192)
    rows = np.arange(count)
    assert (len(rows[fit]), len(rows[judge])) == (fitted, judged)


def test_plan_counts_before_recipe_and_recipe_before_measurement() -> None:
    open_recipe = load_recipe("conditioned")
    named = Recipe(
        name="mine", source="me", calibration_images=8, options={"litert": {"recipe": "static_wi8_ai8"}}
    )
    assert fixed_recipe(LITERT, None, open_recipe) is None
    assert fixed_recipe(LITERT, None, named) == "static_wi8_ai8"
    assert (
        fixed_recipe(LITERT, PrecisionPlan(options={"litert": {"recipe": "dynamic_linear"}}), named)
        == "dynamic_linear"
    )
    assert fixed_recipe(ONNXRUNTIME, None, load_recipe("vendor-default")) == "dynamic"


def test_sixteen_bit_activations_are_for_npus_only() -> None:
    labels = {delegate: [each.label for each in ways] for delegate, ways in DELEGATES.items()}
    assert "static_wi8_ai16" not in labels["cpu"]
    assert labels["npu"] == ["static_wi8_ai8", "static_wi8_ai16"]
