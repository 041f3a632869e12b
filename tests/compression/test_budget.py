"""How far an automatic choice goes, and the drop it goes by."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgevit.compression.budget import most_within, predicted_drop
from edgevit.conversion.compression_stages import explain
from edgevit.conversion.resize import smaller_sizes


@given(st.lists(st.floats(0, 10), max_size=40), st.floats(0, 10))
def test_the_last_option_within_the_limit_is_found_in_few_attempts(drops: list[float], limit: float) -> None:
    drops = sorted(drops)
    options = range(len(drops))
    index, result, tried = most_within(options, lambda option: (option, drops[option]), limit)
    allowed = [option for option in options if drops[option] <= limit]
    assert index == (allowed[-1] if allowed else -1)
    assert result == (index if allowed else None)
    assert len(tried) <= len(drops).bit_length()


def test_the_predicted_drop_is_the_teachers_own_loss_of_confidence() -> None:
    teacher = torch.tensor([[0.7, 0.2, 0.1], [0.5, 0.4, 0.1]]).log()
    same, other = torch.eye(3)[[0, 0]], torch.eye(3)[[1, 0]]
    assert predicted_drop(teacher, same) == 0
    assert predicted_drop(teacher, other) == pytest.approx(100 * (0.7 - 0.2) / 2)


@pytest.mark.parametrize(
    ("tried", "text"),
    [
        (
            [(2, 0.4), (1, 0.1), (3, 0.9)],
            "the most within 0.5 points of predicted drop on 64 held-out calibration images "
            "(tried 1 heads: 0.10, 2 heads: 0.40, 3 heads: 0.90)",
        ),
        (
            [(1, 0.9)],
            "nothing was within 0.5 points of predicted drop on 64 held-out calibration images "
            "(tried 1 heads: 0.90)",
        ),
    ],
)
def test_an_automatic_choice_says_what_it_saw(tried: Any, text: str) -> None:
    assert explain(tried, 0.5, "heads", 64) == text


def test_sizes_shrink_by_a_patch_and_keep_their_shape() -> None:
    assert smaller_sizes((224, 224), (16, 16)) == [(side, side) for side in range(208, 111, -16)]
    assert smaller_sizes((64, 128), (16, 16)) == [(48, 96), (32, 64)]
    assert smaller_sizes((16, 16), (16, 16)) == []
