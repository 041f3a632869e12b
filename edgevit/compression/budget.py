"""How much of a lossy step a predicted drop allows, without labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from edgevit.metrics.acceptance import Acceptance

Option = TypeVar("Option")
Result = TypeVar("Result")


def most_within(
    options: Sequence[Option], attempt: Callable[[Option], tuple[Result, float]], acceptance: Acceptance
) -> tuple[int, Result | None, list[tuple[Option, float]]]:
    """Bisect for the last of `options`, from least to most, whose predicted drop `acceptance` allows.

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
        if acceptance.allows(drop):
            low, kept = middle, result
        else:
            high = middle
    return low, kept, tried
