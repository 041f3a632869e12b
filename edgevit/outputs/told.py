"""How losses are told: a table's columns for each kind of output, and the units of what was lost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgevit.metrics.classification import Accuracy


@dataclass(frozen=True)
class Column:
    """A column of a table: its title, an artefact's figure, and the float model's own where it has one."""

    title: str
    value: Callable[[Accuracy], str]
    reference: Callable[[Accuracy], str] = lambda _: ""


def percent(share: float | None) -> str:
    """A share as percent with two decimals; empty where there is none."""
    return "" if share is None else f"{100 * share:.2f}"


def number(value: float | None) -> str:
    """Four decimals; empty where there is none."""
    return "" if value is None else f"{value:.4f}"


def right(title: str) -> Column:
    """The share of right answers, by labels."""
    return Column(title, lambda each: percent(each.top1), lambda each: percent(each.reference_top1))


def right_in_five(title: str) -> Column:
    """The share of right answers among five guesses, by labels."""
    return Column(title, lambda each: percent(each.top5), lambda each: percent(each.reference_top5))


def agrees(title: str) -> Column:
    """The share of answers that stayed."""
    return Column(title, lambda each: percent(each.agreement))


def cosine(title: str = "cosine") -> Column:
    """The mean over images."""
    return Column(title, lambda each: number(each.cosine))


WORST = Column("worst", lambda each: number(each.cosine_worst))
LOW = Column("5th %", lambda each: number(each.cosine_low))
