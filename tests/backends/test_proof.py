"""The search for what breaks a compiled graph, with a compiler that is made up."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgevit.backends.proof import TOLERANCE, Proof, Verdict, relative_error, smallest_cause

NAMES = tuple(f"rule{number}" for number in range(44))


class Compiler:
    """Wrong unless one of `causes` is left out; dies without any of `needed`."""

    def __init__(self, causes: set[str], needed: set[str] = frozenset()) -> None:  # type: ignore[assignment]
        self.causes, self.needed, self.tried = causes, needed, []  # type: ignore[var-annotated]

    def __call__(self, left_out: tuple[str, ...]) -> Verdict:
        self.tried.append(left_out)
        if self.needed & set(left_out):
            return "died"
        return "right" if self.causes & set(left_out) else "wrong"


@given(st.sampled_from(NAMES), st.sets(st.sampled_from(NAMES), max_size=12))
def test_one_wrong_rule_is_found_whatever_the_compiler_cannot_do_without(
    cause: str, needed: set[str]
) -> None:
    compiler = Compiler({cause}, needed - {cause})
    assert smallest_cause(NAMES, compiler) == (cause,)
    assert len(compiler.tried) == len(set(compiler.tried))


def test_few_builds_are_enough_where_none_dies() -> None:
    compiler = Compiler({"rule17"})
    assert smallest_cause(NAMES, compiler) == ("rule17",)
    assert len(compiler.tried) <= 14


def test_of_two_rules_that_mend_it_one_is_left_out() -> None:
    assert smallest_cause(NAMES, Compiler({"rule3", "rule30"})) in {("rule3",), ("rule30",)}


def test_two_rules_that_break_it_together_are_both_left_out() -> None:
    def both(left_out: tuple[str, ...]) -> Verdict:
        return "right" if {"rule3", "rule4"} <= set(left_out) else "wrong"

    found = smallest_cause(NAMES, both)
    assert found is not None and {"rule3", "rule4"} <= set(found) and len(found) < len(NAMES)


@pytest.mark.parametrize("names", [NAMES, NAMES[:1], ()])
def test_nothing_is_found_where_nothing_mends_it(names: tuple[str, ...]) -> None:
    assert smallest_cause(names, Compiler(set())) is None
    assert smallest_cause(names, lambda left_out: "died") is None


def test_the_search_ends_in_time() -> None:
    ticks = iter(range(0, 10_000, 10))
    compiler = Compiler(set(), set(NAMES))
    assert smallest_cause(NAMES, compiler, seconds=55, clock=lambda: float(next(ticks))) is None
    assert len(compiler.tried) <= 6


def test_errors_are_relative_and_what_is_not_finite_is_wrong() -> None:
    expected = np.array([[3.0, 4.0]])
    assert relative_error(expected, expected) == 0
    assert relative_error(expected + [[0.0, 0.5]], expected) == pytest.approx(0.1)
    for broken in (np.full((1, 2), np.nan), np.full((1, 2), np.inf), np.zeros((1, 3))):
        assert relative_error(broken, expected) > TOLERANCE


def test_a_proof_is_right_as_built_or_once_repaired() -> None:
    assert Proof(16, 0.001).right
    assert Proof(16, 0.3, repaired=0.001).right
    assert not Proof(16, 0.3).right and not Proof(16, float("nan")).right
    assert not Proof(16, 0.3, repaired=0.2).right
