"""Accuracy lost, estimated without labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgevit.metrics.predicted_loss import PredictedLoss, predict_loss, predicted_points


def test_equal_outputs_are_no_drop() -> None:
    same = np.random.default_rng(0).normal(size=(200, 5)).astype(np.float32) * 3
    assert predict_loss(same, same) == PredictedLoss(0.0, 0.0, 0.0, 0.0, 1.0, pytest.approx(1.0), 0.0, 200)


def test_a_changed_prediction_costs_the_difference_of_its_probabilities() -> None:
    theirs = np.log(np.array([[0.6, 0.4]], dtype=np.float32))
    drop = predict_loss(theirs[:, ::-1], theirs)
    assert drop.points == pytest.approx(20.0, abs=1e-3)
    assert drop.agreement == 0.0


def test_a_few_images_tell_how_many_predictions_will_change() -> None:
    """The share among thousands of images, estimated from a hundred, scatters less than the hundred's own count."""
    random = np.random.default_rng(0)
    theirs = random.normal(size=(8000, 20)).astype(np.float32) * 2
    ours = theirs + 0.05 * random.normal(size=theirs.shape).astype(np.float32)
    truth = 100 * (ours.argmax(1) != theirs.argmax(1)).mean()
    found = [
        predict_loss(ours[start : start + 100], theirs[start : start + 100]) for start in range(0, 8000, 100)
    ]
    estimated, counted = ([drop.changes for drop in found], [100 * (1 - drop.agreement) for drop in found])
    assert np.mean(estimated) == pytest.approx(truth, rel=0.25)
    assert np.std(estimated) < 0.7 * np.std(counted)


def test_points_are_the_float_models_own_loss_of_confidence() -> None:
    theirs = torch.tensor([[0.7, 0.2, 0.1], [0.5, 0.3, 0.2]]).log()
    same, other = (
        torch.tensor([[3.0, 0.0, 0.0], [3.0, 0.0, 0.0]]),
        torch.tensor([[0.0, 3.0, 0.0], [3.0, 0.0, 0.0]]),
    )
    assert predicted_points(same, theirs) == 0
    assert predicted_points(other, theirs) == pytest.approx(100 * (0.7 - 0.2) / 2)
