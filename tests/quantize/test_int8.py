"""From a float ViT to a plan: what is kept lowers the error, and the model computes what it did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgevit.backends.rknn.backend import FUSION
from edgevit.errors import InputError
from edgevit.metrics.acceptance import Acceptance
from edgevit.quantize.activations import prepared
from edgevit.quantize.diagnosis import explain, massive_activations, sensitivity
from edgevit.quantize.fake_quantization import int8_outputs
from edgevit.quantize.mixed_precision import Judging, find_plan, measured_effects
from edgevit.quantize.plan import PrecisionPlan, read_plan
from edgevit.quantize.prepare import Int8Model, prepare_int8, restored, save_module
from tests.quantize.made_up_npu import NPU
from tests.vits import images, random_vit, same_function


@pytest.fixture(scope="module")
def ready() -> tuple[Any, torch.Tensor, Int8Model]:
    model = random_vit(seed=3, embed_dim=24, patch_size=8)
    inputs = images(model, 24)
    return model, inputs, prepare_int8(model, inputs, FUSION, seed=0)


def test_the_conditioned_model_computes_the_same(ready: tuple[Any, torch.Tensor, Int8Model]) -> None:
    model, inputs, int8 = ready
    with torch.inference_mode():
        torch.testing.assert_close(int8.module(inputs), model(inputs), atol=2e-3, rtol=0)


def test_steps_are_kept_exactly_where_they_lower_the_error(
    ready: tuple[Any, torch.Tensor, Int8Model],
) -> None:
    steps = ready[2].steps
    assert [step.name for step in steps] == [
        "rotation", "centre-stream", "shift-values", "centre-keys", "equalise-values", "equalise-queries",
    ]  # fmt: skip
    for step in steps:
        assert step.kept == (step.after.error_score < step.before.error_score)


def test_the_same_seed_gives_the_same_model(ready: tuple[Any, torch.Tensor, Int8Model]) -> None:
    model, inputs, first = ready
    second = prepare_int8(model, inputs, FUSION, seed=0)
    assert second.plan == first.plan
    assert torch.equal(second.module.head.weight, first.module.head.weight)


def test_the_plan_has_a_range_for_every_tensor(ready: tuple[Any, torch.Tensor, Int8Model]) -> None:
    plan = ready[2].plan
    assert plan.ranges.keys() == plan.calibrated_ranges.keys()
    assert all(low <= 0.0 <= high for low, high in plan.ranges.values())


def test_a_plan_survives_its_file(ready: tuple[Any, torch.Tensor, Int8Model], tmp_path: Path) -> None:
    plan = PrecisionPlan(
        precision="int8",
        sixteen_bit=("blocks.0.gelu", "embed"),
        ranges=ready[2].plan.ranges,
        calibrated_ranges=ready[2].plan.calibrated_ranges,
    )
    path = tmp_path / "plan.toml"
    path.write_text(plan.to_toml())
    assert read_plan(path) == plan


def test_a_plan_with_an_unknown_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text('precision = "int8"\nsixteenbit = []\n')
    with pytest.raises(InputError) as caught:
        read_plan(path)
    assert "unknown key sixteenbit" in str(caught.value)


def test_the_search_meets_its_target_in_its_own_simulation(
    ready: tuple[Any, torch.Tensor, Int8Model],
) -> None:
    _, inputs, int8 = ready

    def simulate(plan: PrecisionPlan) -> np.ndarray:
        return int8_outputs(int8.module, inputs, plan.ranges, FUSION, plan.sixteen_bit).numpy()

    effects = measured_effects(int8, inputs)
    planned = find_plan(
        int8.module,
        int8.plan,
        effects,
        inputs,
        NPU,
        FUSION,
        Judging(evaluated=24, simulate=simulate, acceptance=Acceptance(20.0), minutes=1.0),
    )
    assert planned.found.met
    assert planned.plan.sixteen_bit == planned.found.candidate.sixteen_bit
    assert planned.plan.ranges == int8.plan.ranges


def test_a_conditioned_model_is_restored_from_its_weights(
    ready: tuple[Any, torch.Tensor, Int8Model], tmp_path: Path
) -> None:
    model, inputs, int8 = ready
    save_module(int8.module, tmp_path / "int8.safetensors")
    again = restored(model, tmp_path / "int8.safetensors")
    with torch.inference_mode():
        same_function(again(inputs), int8.module(inputs))


def test_too_few_images_are_refused() -> None:
    model = random_vit()
    with pytest.raises(InputError) as caught:
        prepare_int8(model, images(model, 4), FUSION)
    assert str(caught.value) == (
        "cannot calibrate int8: 4 calibration images are too few. Give at least 8, better 64 to 512."
    )


def massive_vit() -> tuple[Any, torch.Tensor]:
    """A ViT whose second block writes -580 into channel 5 of few tokens."""
    vit = prepared(random_vit(patch_size=4))
    inputs = images(vit, 8)
    mlp = vit.blocks[1].mlp
    with torch.no_grad():
        hidden = vit.blocks[1].norm2(torch.zeros(1, 1, 24))
        assert hidden.abs().max() < 1e-6
        direction = torch.zeros(24)
        direction[0], direction[1] = 1.0, -1.0
        mlp.fc1.weight[0], mlp.fc1.bias[0] = 100 * direction, torch.tensor(-330.0)
        mlp.fc2.weight[:, 0] = 0.0
        mlp.fc2.weight[5, 0] = -10.0
    return vit, inputs


def test_massive_activations_are_named_in_plain_words() -> None:
    vit, inputs = massive_vit()
    words = explain(massive_activations(vit, inputs))
    assert words is not None
    assert words.startswith("block 1's fc2 writes -")
    assert "into channel 5 for " in words
    assert "% of tokens; int8 can't hold that beside a median of " in words


def test_an_ordinary_model_has_no_massive_activations() -> None:
    vit = prepared(random_vit(patch_size=4))
    assert explain(massive_activations(vit, images(vit, 8))) is None


def test_sensitivity_says_which_kind_of_tensor_the_error_comes_from(
    ready: tuple[Any, torch.Tensor, Int8Model],
) -> None:
    _, inputs, int8 = ready
    coarse = dict(int8.plan.ranges)
    for index in range(2):
        low, high = coarse[f"blocks.{index}.gelu"]
        coarse[f"blocks.{index}.gelu"] = (40 * low, 40 * high)
    found = sensitivity(int8.module, inputs, coarse, int8.statistics, FUSION)
    assert max(found.kinds, key=lambda kind: found.kinds[kind].kl) == "gelu"
    assert found.activations_only.kl > found.weights_only.kl
