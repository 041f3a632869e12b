"""The scale of a model's logits that labels bear out."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from edgevit.metrics.acceptance import provable_drop
from edgevit.metrics.confidence import FEWEST, trusted_scale
from edgevit.metrics.predicted_loss import predict_loss


def honest(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits of a model whose probabilities are true, and labels drawn from them."""
    random = np.random.default_rng(seed)
    outputs = 2 * random.normal(size=(count, 10))
    labels = [random.choice(10, p=row) for row in softmax(outputs, axis=1)]
    return outputs, np.asarray(labels)


@pytest.mark.parametrize("timid", [0.4, 1.0, 2.5])
def test_the_scale_that_was_taken_away_is_found(timid: float) -> None:
    outputs, labels = honest(4000)
    found = trusted_scale(outputs / timid, labels)
    assert found is not None
    assert found == pytest.approx(timid, rel=0.12)


def test_the_upper_end_is_above_the_truth_nineteen_times_in_twenty() -> None:
    ends = [trusted_scale(*honest(256, seed)) for seed in range(100)]
    above = sum(each > 1.0 for each in ends if each is not None)
    assert 88 <= above <= 100


def test_few_labels_say_nothing() -> None:
    assert trusted_scale(*honest(FEWEST - 1)) is None


def test_models_that_are_always_right_or_wrong_have_a_finite_scale() -> None:
    outputs = np.eye(4)[np.arange(80) % 4]
    for labels in (outputs.argmax(1), (outputs.argmax(1) + 1) % 4):
        found = trusted_scale(outputs, labels)
        assert found is not None
        assert np.isfinite(found)


def test_a_timid_model_is_expected_to_lose_more_than_it_says() -> None:
    outputs, labels = honest(1000)
    timid = outputs / 2.5
    noisy = timid + 0.05 * np.random.default_rng(1).normal(size=timid.shape)
    without = predict_loss(noisy, timid)
    with_labels = predict_loss(noisy, timid, scale=trusted_scale(timid, labels))
    assert with_labels.points > 1.5 * without.points
    assert with_labels.changes == pytest.approx(without.changes)
    assert provable_drop(with_labels) == with_labels.upper  # the count of changes is not needed any more
    assert with_labels.kl == without.kl  # distances stay those of the outputs themselves
