"""Answers that are a set are compared in one order."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from edgevit.metrics import any_order
from edgevit.metrics.any_order import matching


@given(rows=st.integers(1, 12), values=st.integers(1, 5), seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=40)
def test_rows_that_changed_places_are_found_again(rows: int, values: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    reference = random.normal(size=(rows, values))
    found = reference[random.permutation(rows)]
    np.testing.assert_array_equal(found[matching(found, reference)], reference)


def test_each_row_is_taken_once() -> None:
    reference = np.array([[0.0], [0.1], [5.0]])
    assert sorted(matching(np.array([[5.0], [0.0], [9.0]]), reference)) == [0, 1, 2]


def test_rows_that_are_no_numbers_or_anchors_stay(monkeypatch: object) -> None:
    reference = np.array([[0.0], [1.0]])
    assert list(matching(np.array([[1.0], [np.nan]]), reference)) == [0, 1]
    many = np.arange(any_order.MOST + 1.0)[:, None]
    assert list(matching(many[::-1], many)) == list(range(len(many)))
