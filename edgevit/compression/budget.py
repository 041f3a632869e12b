"""How much of a lossy step a predicted drop allows, without labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

Option = TypeVar("Option")
Result = TypeVar("Result")


@torch.no_grad()
def predicted_drop(expected: torch.Tensor, found: torch.Tensor) -> float:
    """Points of top-1 that a student is expected to lose, from outputs [n, classes] of teacher and student.

    The teacher's own probabilities stand in for labels: what it gave its prediction minus what it gave the
    student's. As good as the teacher is calibrated; never negative.
    """
    probabilities = expected.softmax(-1)
    best = probabilities.max(-1).values
    chosen = probabilities.gather(-1, found.argmax(-1, keepdim=True))[:, 0]
    return 100 * float((best - chosen).mean())


def most_within(
    options: Sequence[Option], attempt: Callable[[Option], tuple[Result, float]], limit: float
) -> tuple[int, Result | None, list[tuple[Option, float]]]:
    """Bisect for the last of `options`, from least to most, whose predicted drop is within `limit`.

    Returns its index (-1: none is), its result, and every (option, predicted drop) tried. The drop is taken to
    grow from option to option.
    """
    low, high = -1, len(options)
    kept: Result | None = None
    tried: list[tuple[Option, float]] = []
    while high - low > 1:
        middle = (low + high) // 2
        result, drop = attempt(options[middle])
        tried.append((options[middle], drop))
        if drop <= limit:
            low, kept = middle, result
        else:
            high = middle
    return low, kept, tried
