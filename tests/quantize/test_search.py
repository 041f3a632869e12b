"""The search finds the cheapest plan that a simulator accepts, whatever the estimates say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgevit.backends.rknn.backend import FUSION
from edgevit.errors import ToolchainError
from edgevit.metrics.acceptance import Acceptance, provable_drop
from edgevit.metrics.predicted_loss import PredictedLoss, predict_loss
from edgevit.progress import Quiet
from edgevit.quantize.candidates import CandidatePlan, candidate_plans
from edgevit.quantize.fusion import rounded_when_read
from edgevit.quantize.groups import Costs, Errors, Shape, groups_of
from edgevit.quantize.search import search
from edgevit.quantize.tensor_names import tap_names
from tests.quantize.made_up_npu import NPU

IMAGES, CLASSES = 200, 5
SHAPE = Shape(dim=192, hidden=768, heads=3, tokens=197, queries=(197, 197))


def reference() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(IMAGES, CLASSES)).astype(np.float32) * 3


def candidates(count: int = 12) -> list[CandidatePlan]:
    names = tuple(f"blocks.{index}.residual1" for index in range(count))
    return [
        CandidatePlan(f"unit {index}", f"unit {index}", names[:index], 100.0 * index, 0.0, 0.0)
        for index in range(count)
    ]


class Simulator:
    """Outputs whose error falls with every 16-bit tensor, and are the float ones from `enough` on."""

    def __init__(self, enough: int) -> None:
        self.enough, self.calls = enough, []  # type: ignore[var-annotated]

    def __call__(self, sixteen_bit: tuple[str, ...]) -> np.ndarray:
        self.calls.append(len(sixteen_bit))
        error = max(0.0, 1.5 * (self.enough - len(sixteen_bit)))
        return reference() + error * np.random.default_rng(1).normal(size=(IMAGES, CLASSES)).astype(
            np.float32
        )


def measure(simulator: Simulator) -> Any:
    def loss(sixteen_bit: tuple[str, ...]) -> PredictedLoss:
        return predict_loss(simulator(sixteen_bit), reference())

    return loss


def run(fake: Simulator, simulate: Simulator, **options: Any) -> Any:
    given = {"acceptance": Acceptance(0.5), "minutes": 5.0}
    measures = {"estimate": measure(fake), "simulate": measure(simulate)}
    return search(candidates(), **measures, **{**given, **options})


def test_the_cheapest_plan_that_the_simulator_accepts_is_found() -> None:
    found = run(Simulator(4), Simulator(4))
    assert found.met
    assert len(found.candidate.sixteen_bit) == 4


def test_what_simulated_plans_cost_is_noted_with_them() -> None:
    found = run(Simulator(4), Simulator(4), priced=lambda kept: {"latency_ms": 10.0 + len(kept)})
    simulated = [each for each in found.trials if each["how"] == "simulate"]
    assert simulated
    assert all(each["latency_ms"] == 10.0 + each["cycles"] / 100 for each in simulated)
    assert all("latency_ms" not in each for each in found.trials if each["how"] == "fake")


def test_the_simulator_has_the_last_word_when_estimates_are_too_good() -> None:
    found = run(Simulator(2), Simulator(7))
    assert found.met
    assert len(found.candidate.sixteen_bit) == 7


def test_the_search_steps_back_when_estimates_are_too_bad() -> None:
    found = run(Simulator(9), Simulator(3))
    assert found.met
    assert len(found.candidate.sixteen_bit) == 3


def test_nothing_moves_when_everything_int8_is_good_enough() -> None:
    found = run(Simulator(0), Simulator(0))
    assert found.met
    assert found.candidate.sixteen_bit == ()


def test_an_impossible_target_ends_with_the_best_plan_and_says_what_is_needed() -> None:
    found = run(Simulator(99), Simulator(99))
    assert not found.met
    assert len(found.candidate.sixteen_bit) == 11
    assert found.explanation.startswith("target of 0.5 points not met by any plan: ")
    assert "Use --precision float, or more calibration images" in found.explanation
    assert found.explanation.endswith(
        f"--max-drop {provable_drop(found.measured):.2f} is what this plan keeps; "
        "--search-minutes 0 leaves everything int8, about 0.0 million cycles fewer"
    )


class Crashing(Simulator):
    """A compiler that dies of plans with the tensors from `deadly` on."""

    def __init__(self, enough: int, deadly: int) -> None:
        super().__init__(enough)
        self.deadly = deadly

    def __call__(self, sixteen_bit: tuple[str, ...]) -> np.ndarray:
        if len(sixteen_bit) >= self.deadly:
            raise ToolchainError("rknn failed", "killed by SIGSEGV", "See the log")
        return super().__call__(sixteen_bit)


@pytest.mark.parametrize("estimated", [0, 2, 6, 9])
def test_plans_that_the_compiler_dies_of_end_the_ladder(estimated: int) -> None:
    found = run(Simulator(estimated), Crashing(3, deadly=5))
    assert found.met
    assert len(found.candidate.sixteen_bit) == 3
    found = run(Simulator(estimated), Crashing(7, deadly=5))
    assert not found.met
    assert len(found.candidate.sixteen_bit) == 4


def test_a_compiler_that_dies_of_the_top_plan_leaves_one_below_it_when_there_is_no_time() -> None:
    warnings = Quiet()
    found = run(Simulator(99), Crashing(7, deadly=11), minutes=0.0, progress=warnings)
    assert not found.met
    assert len(found.candidate.sixteen_bit) == 5
    assert "no plan with unit 11 in 16 bits: rknn failed" in warnings.warnings[0]


def test_a_compiler_that_dies_of_plain_int8_fails_the_search() -> None:
    with pytest.raises(ToolchainError):
        run(Simulator(0), Crashing(0, deadly=0))


def test_a_board_without_float_is_not_told_to_use_it() -> None:
    found = run(Simulator(99), Simulator(99), advice="a platform that computes in float")
    assert "Use a platform that computes in float, or more calibration images" in found.explanation


def test_units_with_tensors_that_a_compiler_cannot_make_in_16_bits_are_left_out() -> None:
    words = [group.name for group in groups_of(1) if group.possible(("attention", "patch"))]
    assert words == ["embed", "stream.0", "mlp.0", "mlp-stream.0", "mlp-whole.0", "head"]


def test_without_time_the_most_accurate_plan_is_taken() -> None:
    simulate = Simulator(7)
    found = run(Simulator(2), simulate, minutes=0.0)
    assert found.met
    assert simulate.calls == [11]
    assert found.explanation.endswith(
        "cheaper plans were not tried for lack of time: allow more --search-minutes"
    )


def test_a_stopped_search_goes_on_where_it_was(tmp_path: Path) -> None:
    state, simulate = tmp_path / "search.json", Simulator(7)
    first = run(Simulator(2), simulate, state=state, key="a")
    calls = len(simulate.calls)
    second = run(Simulator(2), simulate, state=state, key="a")
    assert len(simulate.calls) == calls
    assert second.candidate == first.candidate
    assert json.loads(state.read_text())["key"] == "a"


def test_another_model_does_not_reuse_measurements(tmp_path: Path) -> None:
    state, simulate = tmp_path / "search.json", Simulator(7)
    run(Simulator(2), simulate, state=state, key="a")
    calls = len(simulate.calls)
    run(Simulator(2), simulate, state=state, key="b")
    assert len(simulate.calls) == 2 * calls


def effects(**known: float) -> dict[str, float]:
    return {name: known.get(name.replace(".", "_"), 1e-6) for name in tap_names(2)}


def test_the_ladder_starts_at_int8_and_takes_the_worst_tensor_first() -> None:
    errors = Errors(effects(blocks_1_residual1=0.5), 2, FUSION)
    found = candidate_plans(groups_of(2), errors, Costs(SHAPE, NPU, FUSION))
    assert found[0].sixteen_bit == ()
    assert "blocks.1.residual1" in found[1].sixteen_bit
    assert "blocks.1.norm2" in found[1].sixteen_bit
    assert all(
        a.estimated_kl > b.estimated_kl and len(a.sixteen_bit) < len(b.sixteen_bit)
        for a, b in zip(found, found[1:], strict=False)
    )


def test_a_massive_fc2_takes_its_addition_and_its_input_along() -> None:
    massive = effects(blocks_0_fc2=5.0, blocks_0_residual2=5.0, blocks_0_gelu=2.0)
    found = candidate_plans(groups_of(2), Errors(massive, 2, FUSION), Costs(SHAPE, NPU, FUSION))
    assert {"blocks.0.fc2", "blocks.0.gelu", "blocks.0.residual2"} <= set(found[1].sixteen_bit)


def test_float16_convolutions_cost_what_the_compiler_says() -> None:
    # DeiT-Ti's fc2 on RK3588: 29952 cycles in int8, 59904 in float16.
    costs = Costs(SHAPE, NPU, FUSION)
    assert costs.compiler({"blocks.0.fc2"}) == 29952
    assert costs.compiler({"blocks.0.residual1", "blocks.0.norm2"}) == 0
    assert costs({"blocks.0.residual1", "blocks.0.norm2"}) > 1000


def test_a_fused_result_is_rounded_on_its_own_only_beside_a_16_bit_addition() -> None:
    assert not FUSION.rounded_when_made("blocks.0.fc2", ())
    assert FUSION.rounded_when_made("blocks.0.fc2", {"blocks.0.residual2"})
    assert not FUSION.rounded_when_made("blocks.0.fc2", {"blocks.0.residual2", "blocks.0.fc2"})


def test_attention_in_16_bits_rounds_no_weights() -> None:
    assert FUSION.rounded_when_made("blocks.0.softmax", ())
    assert not FUSION.rounded_when_made("blocks.0.softmax", {"blocks.0.attention"})


def test_a_16_bit_tensor_is_rounded_for_an_int8_reader() -> None:
    assert rounded_when_read("blocks.0.residual1", "blocks.0.norm2", {"blocks.0.residual1"})
    assert not rounded_when_read(
        "blocks.0.residual1", "blocks.0.norm2", {"blocks.0.residual1", "blocks.0.norm2"}
    )


def test_what_comes_next_is_told_beforehand() -> None:
    told: list[list[int]] = []
    simulate = Simulator(6)
    run(Simulator(3), simulate, ahead=lambda plans: told.append([len(each) for each in plans]))
    assert [each[0] for each in told] == simulate.calls
    foreseen = [call in told[number - 1] for number, call in enumerate(simulate.calls) if number]
    assert any(foreseen)
    assert all(len(set(each)) == len(each) for each in told)
