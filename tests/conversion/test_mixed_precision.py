"""Plans that people edit and give back, and which calibration images evaluate a plan."""

from __future__ import annotations

import pytest

from edgevit.conversion.mixed_precision import evaluated_images, merged, searchable
from edgevit.errors import InputError
from edgevit.quantize.plan import PrecisionPlan
from edgevit.targets.profiles import load_board

OWN = PrecisionPlan(
    precision="int8",
    ranges={"blocks.0.gelu": (-0.2, 4.0), "embed": (-1.0, 1.0)},
    calibrated_ranges={"blocks.0.gelu": (-0.2, 6.0), "embed": (-1.0, 1.0)},
)


def given(*sixteen_bit: str, **ranges: tuple[float, float]) -> PrecisionPlan:
    return PrecisionPlan(
        precision="int8", sixteen_bit=sixteen_bit, ranges=ranges, calibrated_ranges={"embed": (0.0, 9.0)}
    )


def refusal(own: PrecisionPlan, plan: PrecisionPlan, board: str) -> str:
    with pytest.raises(InputError) as caught:
        merged(own, plan, load_board(board))
    return str(caught.value)


def test_a_given_plan_keeps_the_ranges_it_does_not_name_and_what_calibration_saw() -> None:
    plan = merged(OWN, given("embed", embed=(-0.5, 0.5)), load_board("rk3588"))
    assert plan.sixteen_bit == ("embed",)
    assert plan.ranges == {"blocks.0.gelu": (-0.2, 4.0), "embed": (-0.5, 0.5)}
    assert plan.calibrated_ranges == OWN.calibrated_ranges


def test_a_misspelt_tensor_is_named_with_the_nearest() -> None:
    assert refusal(OWN, given("blocks.0.glu"), "rk3588") == (
        "cannot realise --plan for rk3588: the model has no tensor blocks.0.glu. Rename it to blocks.0.gelu."
    )


def test_a_plan_for_a_model_without_names_is_refused() -> None:
    assert refusal(PrecisionPlan(precision="int8"), given("embed"), "rk3588") == (
        "cannot realise --plan for rk3588: this model was not conditioned, so its tensors have no names. "
        "Use --recipe conditioned and a plain ViT."
    )


def test_a_backend_that_takes_no_ranges_refuses_them() -> None:
    assert refusal(OWN, given("embed"), "tflite") == (
        "cannot realise --plan for tflite: its backend, litert, takes no ranges or 16-bit tensors. "
        "Remove sixteen_bit and [ranges] from the plan, or choose another target."
    )


def test_a_board_without_a_16_bit_type_refuses_16_bit_tensors_and_is_not_searched() -> None:
    assert refusal(OWN, given("embed"), "rv1106b") == (
        "cannot realise --plan for rv1106b: it has no 16-bit type. Remove sixteen_bit from the plan."
    )
    assert not searchable(load_board("rv1106b"))
    assert searchable(load_board("rk3588"))
    assert searchable(load_board("rv1106"))
    assert not searchable(load_board("tflite"))


def test_a_tensor_that_the_compiler_cannot_make_in_16_bits_is_refused_by_name() -> None:
    own = PrecisionPlan(precision="int8", ranges={"blocks.0.attention": (-1.0, 1.0)})
    assert refusal(own, given("blocks.0.attention"), "rv1106") == (
        "cannot realise --plan for rv1106: its compiler can't make blocks.0.attention in int16. "
        "Remove blocks.0.attention from sixteen_bit."
    )
    assert merged(own, given("blocks.0.attention"), load_board("rk3588")).sixteen_bit


@pytest.mark.parametrize(("count", "evaluated"), [(256, 128), (512, 128), (64, 32), (20, 16), (8, 8)])
def test_the_last_images_judge_plans(count: int, evaluated: int) -> None:
    assert evaluated_images(count) == evaluated
