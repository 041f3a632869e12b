"""What "loses at most X points" means, by each kind of evidence."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgevit.metrics.acceptance import DEFAULT_MAX_DROP, Acceptance, provable_drop
from edgevit.metrics.predicted_loss import CHANGES_PER_POINT, PredictedLoss

LOSS = PredictedLoss(
    points=0.1, upper=0.2, changes=0.5, changes_upper=0.9, agreement=0.99, cosine=0.99, kl=0.01, images=128
)


def test_the_users_limit_is_met_exactly_at_it() -> None:
    assert Acceptance(0.5).allows(0.5)
    assert not Acceptance(0.5).allows(0.51)
    assert Acceptance().max_drop == DEFAULT_MAX_DROP


@pytest.mark.parametrize(
    ("low", "high", "proved"), [(-0.2, 0.5, True), (0.6, 1.0, False), (0.2, 0.6, None), (0.5, 0.6, None)]
)
def test_a_claim_needs_the_whole_interval(low: float, high: float, proved: bool | None) -> None:
    assert Acceptance(0.5).proves(low, high) is proved


def test_a_prediction_needs_both_upper_ends() -> None:
    assert provable_drop(LOSS) == pytest.approx(0.2)
    confident = replace(LOSS, changes_upper=0.6 * CHANGES_PER_POINT)
    assert provable_drop(confident) == pytest.approx(0.6)
    assert Acceptance(0.5).keeps(LOSS) and not Acceptance(0.5).keeps(confident)
    assert Acceptance(0.5).shortfall(LOSS) < 1 < Acceptance(0.5).shortfall(confident)


def test_steps_share_a_limit() -> None:
    assert Acceptance(0.6).shared(3).max_drop == pytest.approx(0.2)
    assert Acceptance(0.6).shared(0).max_drop == 0.6
