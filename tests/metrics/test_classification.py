"""The comparison says what was lost, on how many images, and how sure that is."""

from __future__ import annotations

import numpy as np
import pytest

from edgevit.errors import EdgevitError
from edgevit.metrics.classification import compare, paired_interval


def logits_for(predictions: list[int], classes: int = 10) -> np.ndarray:
    return np.eye(classes, dtype=np.float32)[predictions] * 5


def test_identical_logits_lose_nothing() -> None:
    outputs = np.random.default_rng(0).standard_normal((50, 10)).astype(np.float32)
    labels = outputs.argmax(1)
    found = compare(outputs, outputs, labels)
    assert (found.top1, found.agreement, found.drop_points, found.lost, found.won) == (1, 1, 0, 0, 0)
    assert found.kl == pytest.approx(0, abs=1e-12)
    assert found.cosine == pytest.approx(1)
    assert found.drop_low < 0 < found.drop_high  # type: ignore[operator]


def test_lost_and_won_images_are_paired() -> None:
    labels = np.arange(10)
    reference = logits_for([0, 1, 2, 3, 4, 5, 6, 7, 0, 0])  # two wrong
    candidate = logits_for([0, 1, 2, 0, 0, 0, 6, 7, 8, 0])  # loses three, wins one
    found = compare(candidate, reference, labels)
    assert (found.lost, found.won, found.n) == (3, 1, 10)
    assert found.drop_points == pytest.approx(20)
    assert found.agreement == pytest.approx(0.6)
    assert found.reference_top1 == pytest.approx(0.8)
    assert found.top1 == pytest.approx(0.6)


def test_kl_is_that_of_the_definition() -> None:
    reference, candidate = np.array([[0.0, np.log(3)]]), np.array([[0.0, 0.0]])
    expected = 0.25 * np.log(0.25 / 0.5) + 0.75 * np.log(0.75 / 0.5)
    assert compare(candidate, reference, None).kl == pytest.approx(expected)


def test_without_labels_only_the_unlabelled_figures_are_given() -> None:
    found = compare(logits_for([0, 1]), logits_for([0, 2]), None)
    assert (found.top1, found.drop_points, found.agreement) == (None, None, 0.5)


def test_top5_of_a_model_with_three_classes_is_one() -> None:
    found = compare(logits_for([0, 1], 3), logits_for([0, 1], 3), np.array([2, 2]))
    assert (found.top1, found.top5) == (0, 1)


def test_nan_logits_are_an_error() -> None:
    broken = logits_for([0, 1])
    broken[1, 3] = np.nan
    with pytest.raises(EdgevitError) as caught:
        compare(broken, logits_for([0, 1]), None)
    assert str(caught.value) == (
        "the artefact is broken: 1 of 2 images gave NaN or infinite outputs. "
        "Try --precision float or another recipe."
    )


def test_other_shape_is_an_error() -> None:
    with pytest.raises(EdgevitError, match=r"its outputs have shape \(2, 3\) instead of \(2, 10\)"):
        compare(logits_for([0, 1], 3), logits_for([0, 1]), None)


@pytest.mark.parametrize(
    ("lost", "won", "n", "most"),
    [
        (0.01, 0.01, 200, 1.0),  # four images change: conservative, by design
        (0.0, 0.005, 744, 1.0),
        (0.01, 0.0, 744, 1.0),  # losses only: the worst case, 93.2 % where exact enumeration is lowest
        (0.05, 0.03, 744, 0.975),
        (0.1, 0.02, 100, 0.975),
        (0.06, 0.0, 744, 0.975),
    ],
)
def test_interval_covers_the_truth_as_often_as_it_says(lost: float, won: float, n: int, most: float) -> None:
    draws = np.random.default_rng(1).multinomial(n, [lost, won, 1 - lost - won], size=4000)
    cells, counts = np.unique(draws[:, :2], axis=0, return_counts=True)
    intervals = [paired_interval(int(a), int(b), n) for a, b in cells]
    covered = [low <= lost - won <= high for low, high in intervals]
    assert 0.925 <= np.average(covered, weights=counts) <= most


def test_interval_does_not_collapse_where_no_image_changed() -> None:
    low, high = paired_interval(0, 0, 744)
    assert low == -high
    assert 0.003 < high < 0.006  # "rule of three": 3 / 744 = 0.004
