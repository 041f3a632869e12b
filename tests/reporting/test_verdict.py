"""An answer is given only where the interval allows it."""

from __future__ import annotations

import numpy as np
import pytest

from edgevit.metrics.classification import compare, paired_interval
from edgevit.reporting.boards import loss
from edgevit.reporting.sections import Loss
from edgevit.reporting.verdict import images_needed, tenths, verdict


def measured(lost: int, won: int, n: int, how: str = "vendor simulator") -> Loss:
    """A loss of `lost` and `won` images out of `n`."""
    truth = np.zeros(n, dtype=np.int64)
    before, after = np.zeros(n, dtype=int), np.zeros(n, dtype=int)
    after[:lost] = 1
    before[lost : lost + won] = 1
    eye = np.eye(2, dtype=np.float32)
    found = loss(compare(eye[after], eye[before], truth), how)
    assert found is not None
    return found


def test_yes_when_the_whole_interval_is_within_the_limit() -> None:
    answer = verdict(measured(0, 0, 1000), None, None)
    assert answer.answer == "yes"
    assert answer.because == (
        "the loss is between \u22120.3 and 0.3 points of top-1 (95 %, n = 1000, vendor simulator), "
        "within the limit of 0.5"
    )
    assert answer.limit_from == "edgevit's default; set yours with --max-drop"


def test_no_when_none_of_the_interval_is_within_the_limit() -> None:
    answer = verdict(measured(60, 5, 744), None, None)
    assert answer.answer == "no"
    assert "above the limit of 0.5" in answer.because


def test_nothing_is_claimed_where_the_interval_holds_the_limit() -> None:
    answer = verdict(measured(2, 1, 200), None, None)
    assert answer.answer == "can't tell"
    assert "200 images (vendor simulator) leave the loss anywhere between" in answer.because


def test_a_missed_gate_is_a_no_even_if_the_interval_reaches_the_limit() -> None:
    answer = verdict(measured(5, 1, 200), 1.0, "missed")
    assert answer.answer == "no"
    assert (
        answer.because == "it lost 2.0 points of top-1 on 200 images (vendor simulator); --max-drop allows 1"
    )
    assert answer.limit_from == "yours, from --max-drop"


def test_a_gate_missed_by_the_search_says_so() -> None:
    answer = verdict(measured(0, 0, 200), 1.0, "missed")
    assert answer.answer == "no"
    assert answer.because == (
        "it lost 0.0 points of top-1 on 200 images (vendor simulator), but on the calibration images no precision "
        "plan was proved within --max-drop 1"
    )


def test_a_gate_met_by_too_few_images_is_not_a_yes() -> None:
    answer = verdict(measured(1, 0, 200), 1.0, "met")
    assert answer.answer == "can't tell"
    assert answer.because.startswith("The measured loss meets --max-drop, but 200 images")


def test_the_number_of_images_named_would_indeed_tell() -> None:
    found = measured(3, 2, 200)
    needed = images_needed(found, 0.5 + 0.5)
    assert needed is not None
    lost, won = round(3 / 200 * needed), round(2 / 200 * needed)
    low, high = paired_interval(lost, won, needed)
    assert 100 * high <= 1.0 or 100 * low > 1.0
    fewer = needed - max(2, needed // 20)
    low, high = paired_interval(round(3 / 200 * fewer), round(2 / 200 * fewer), fewer)
    assert 100 * low <= 1.0 < 100 * high


def test_a_loss_at_the_limit_can_not_soon_be_told() -> None:
    answer = verdict(measured(1, 0, 200), 0.5, "met")
    assert answer.images_needed is None
    assert answer.because.endswith("More images would not soon tell: the measured loss is at the limit")


@pytest.mark.parametrize(("changed", "answer"), [(0, "yes"), (30, "can't tell")])
def test_without_labels_changed_predictions_bound_the_loss(changed: int, answer: str) -> None:
    now = np.zeros(1000, dtype=int)
    now[:changed] = 1
    eye = np.eye(2, dtype=np.float32)
    found = loss(compare(eye[now], eye[np.zeros(1000, dtype=int)], None), "host CPU")
    assert verdict(found, None, None).answer == answer


def test_without_images_nothing_was_measured() -> None:
    answer = verdict(None, None, None)
    assert (answer.answer, answer.because) == (
        "can't tell",
        "accuracy was not measured: there were no validation images",
    )


def test_no_minus_zero() -> None:
    assert [tenths(value) for value in (-0.04, 0.04, -1.26)] == ["0.0", "0.0", "\u22121.3"]
