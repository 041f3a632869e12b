"""The choice between ways to quantize: accuracy first, then speed by a margin, and losses said aloud."""

from __future__ import annotations

import numpy as np
import pytest

from edgevit.backends.trials import Trial, Trials, best_of, record
from edgevit.errors import EdgevitError
from edgevit.metrics.acceptance import Acceptance
from edgevit.metrics.predicted_loss import CHANGES_PER_POINT

IMAGES, CLASSES, ROUNDS = 96, 10, 12


def reference() -> np.ndarray:
    """Float outputs with every image surely recognised but the first few."""
    random = np.random.default_rng(0)
    outputs = random.normal(size=(IMAGES, CLASSES))
    outputs[np.arange(IMAGES), random.integers(0, CLASSES, IMAGES)] += 12
    return outputs.astype(np.float32)


def trial(label: str, ms: float, *, error: float = 0.01, noise: float = 0.02) -> Trial:
    """A candidate that takes `ms` give or take `noise`, and whose outputs err by `error`."""
    random = np.random.default_rng(len(label))
    outputs = (reference() + error * random.normal(size=(IMAGES, CLASSES))).astype(np.float32)
    times = ms * (1 + noise * random.standard_normal(ROUNDS))
    return Trial(label, outputs, tuple(times), details={"partitions": 1})


def measured(*tried: Trial, float_ms: float = 30.0) -> Trials:
    return Trials(reference(), (float_ms,) * ROUNDS, tried)


def chosen(*tried: Trial, max_drop: float = 0.5) -> str:
    return best_of(measured(*tried), Acceptance(max_drop), where="tflite").chosen.trial.label


def test_clearly_faster_candidate_is_taken() -> None:
    assert chosen(trial("dynamic", 15), trial("static", 10)) == "static"


@pytest.mark.parametrize("ms", [14.5, 14.8, 15.0, 15.5])
def test_difference_within_the_noise_keeps_the_more_faithful(ms: float) -> None:
    assert chosen(trial("dynamic", 15), trial("static", ms)) == "dynamic"


def test_one_lucky_round_in_two_is_not_clearly_faster() -> None:
    lucky = trial("static", 15, noise=0)
    times = tuple(5.0 if number % 2 else 15.0 for number in range(ROUNDS))
    assert chosen(trial("dynamic", 15), Trial("static", lucky.outputs, times)) == "dynamic"


def test_faster_candidate_that_loses_too_much_is_refused() -> None:
    result = best_of(
        measured(trial("dynamic", 15), trial("static", 5, error=8)), Acceptance(0.5), where="tflite"
    )
    assert result.chosen.trial.label == "dynamic"
    assert [each.accepted for each in result.evaluated] == [True, False]


@pytest.mark.parametrize(("repeated", "accepted"), [(1, False), (4, True)])
def test_candidate_on_the_edge_is_taken_only_with_images_enough_to_tell(
    repeated: int, accepted: bool
) -> None:
    random = np.random.default_rng(0)
    outputs = np.zeros((IMAGES, CLASSES), np.float32)
    outputs[:, 0], outputs[:3, 1] = 12.0, 11.99  # three near ties, each as likely to change as not
    outputs = np.tile(outputs, (repeated, 1))
    near = (outputs + 0.3 * random.normal(size=outputs.shape)).astype(np.float32)
    trials = Trials(outputs, (30.0,) * ROUNDS, (Trial("static", near, (10.0,) * ROUNDS),))
    (evaluated,) = best_of(trials, Acceptance(0.5), where="tflite").evaluated
    assert evaluated.loss is not None and evaluated.loss.upper < 0.5
    assert evaluated.loss.changes / CHANGES_PER_POINT < 0.5
    assert evaluated.accepted == accepted


def test_where_none_keeps_the_target_the_closest_is_taken_and_it_is_said() -> None:
    result = best_of(
        measured(trial("bad", 5, error=12), trial("less bad", 15, error=6)), Acceptance(0.5), where="tflite"
    )
    assert result.chosen.trial.label == "less bad"
    assert result.explanation.startswith(
        "no way to quantize keeps within 0.5 points; less bad is the closest: "
    )
    assert result.explanation.endswith("Use --precision float, or accept a larger --max-drop")


def test_slower_than_float_is_said_in_capitals() -> None:
    result = best_of(measured(trial("static", 60, noise=0)), Acceptance(0.5), where="tflite")
    assert result.warning == (
        "tflite: THE QUANTIZED MODEL IS SLOWER THAN FLOAT: 2.00 times the latency (host CPU, 1 thread). "
        "Use --precision float unless you need the smaller file"
    )
    assert "2.00 times SLOWER THAN FLOAT on this machine" in result.explanation
    assert best_of(measured(trial("dynamic", 15)), Acceptance(0.5), where="tflite").warning is None


def test_untimed_candidates_are_taken_in_their_order() -> None:
    untimed = [Trial(each.label, each.outputs) for each in (trial("int8", 1), trial("int16", 1))]
    result = best_of(Trials(reference(), (), tuple(untimed)), Acceptance(0.5), where="npu")
    assert result.chosen.trial.label == "int8"
    assert result.chosen.speedup is None
    assert result.explanation.endswith("not timed: this machine is not the target")


def test_numbers_that_are_not_finite_are_never_accepted() -> None:
    broken = trial("static", 5)
    assert broken.outputs is not None
    broken.outputs[3, 2] = np.nan
    assert chosen(trial("dynamic", 15), broken) == "dynamic"


def test_failed_candidate_is_recorded_and_passed_over() -> None:
    failed = Trial("static", None, failure="no kernel")
    result = best_of(measured(failed, trial("dynamic", 15)), Acceptance(0.5), where="tflite")
    assert result.chosen.trial.label == "dynamic"
    first = record(result.evaluated[0])
    assert (first["label"], first["failure"], first["accepted"]) == ("static", "no kernel", False)
    assert first["latency_ratio"] is None


def test_all_failed_is_one_line() -> None:
    with pytest.raises(EdgevitError) as caught:
        best_of(measured(Trial("static", None, failure="no kernel")), Acceptance(0.5), where="tflite")
    assert str(caught.value) == (
        "cannot quantize for tflite: every way failed, the last one with: no kernel. Use --precision float."
    )


def test_record_has_what_the_manifest_promises() -> None:
    found = record(best_of(measured(trial("dynamic", 15, noise=0)), Acceptance(0.5), where="tflite").chosen)
    assert found["latency_ms"] == pytest.approx(15)
    assert found["latency_ratio"] == pytest.approx(2)
    assert (found["how"], found["partitions"], found["accepted"]) == ("host CPU", 1, True)
    assert found["kl"] > 0
    assert found["agreement"] == 1
