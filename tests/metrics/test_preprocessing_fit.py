"""Whether outputs say that images are prepared in another way than the model was trained with."""

from __future__ import annotations

import numpy as np

from edgevit.metrics.preprocessing_fit import fit_of, score

N, CLASSES = 128, 10


def answers(sharpness: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Outputs that point at the right class by `sharpness`, with noise, and the labels."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, N)
    outputs = random.normal(size=(N, CLASSES))
    outputs[np.arange(N), labels] += sharpness
    return outputs, labels


def test_the_sharper_outputs_are_the_better_preprocessing() -> None:
    (good, labels), (bad, _) = answers(6), answers(2)
    for known in (labels, None):
        assert fit_of(good, bad, known).sure
        assert not fit_of(bad, good, known).sure
        assert fit_of(bad, good, known).hopeless


def test_outputs_alike_but_for_noise_are_never_suspected() -> None:
    for seed in range(40):
        (one, labels), (other, _) = answers(4), answers(4)
        other = other + 0.3 * np.random.default_rng(seed).normal(size=other.shape)
        for known in (labels, None):
            assert not fit_of(other, one, known).sure


def test_one_class_for_everything_is_no_sign_of_fitting_however_sure() -> None:
    good, _ = answers(3)
    collapsed = np.zeros((N, CLASSES))
    collapsed[:, 0] = 30.0
    assert score(collapsed, None).mean() < 1e-3
    assert not fit_of(collapsed, good, None).sure


def test_the_same_outputs_are_as_good_as_themselves() -> None:
    outputs, labels = answers(3)
    assert fit_of(outputs, outputs, labels).better_by == 0
