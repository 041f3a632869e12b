"""Ranges of known distributions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgevit.quantize.calibration import ranges_of, stability
from edgevit.quantize.fake_quantization import fake_quantize, rounded_rows
from edgevit.quantize.observers import (
    OBSERVERS,
    TensorStatistics,
    choose_range,
    minmax,
    mse,
    output_error,
    percentile,
    squared_error,
)


def observed(rows: torch.Tensor, gradient: torch.Tensor | None = None) -> TensorStatistics:
    gradient = torch.ones_like(rows) if gradient is None else gradient
    return TensorStatistics(rows, gradient, rows.amin(1), rows.amax(1), per_image=1)


def normal(count: int = 20000, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 1, generator=torch.Generator().manual_seed(seed))


def test_minmax_covers_everything_seen() -> None:
    rows = normal()
    assert minmax(observed(rows)) == (float(rows.min()), float(rows.max()))


def test_a_range_always_holds_zero() -> None:
    rows = normal().abs() + 5
    for name in OBSERVERS:
        low, high = OBSERVERS[name](observed(rows))
        assert low == 0.0
        assert high > 5


def test_percentile_leaves_a_lone_outlier_out() -> None:
    rows = normal()
    rows[7] = 1000.0
    low, high = percentile(observed(rows))
    assert 3 < high < 6
    assert -6 < low < -3


def test_mse_clips_a_lone_outlier_when_rounding_costs_more() -> None:
    rows = normal(200000)
    rows[7] = 20.0
    low, high = mse(observed(rows))
    assert high < 20.0
    assert squared_error(rows, torch.ones(()), (low, high)) < squared_error(
        rows, torch.ones(()), minmax(observed(rows))
    )


def test_output_error_keeps_an_outlier_that_the_output_depends_on() -> None:
    rows = normal(200000)
    rows[7] = 20.0
    gradient = torch.ones_like(rows)
    gradient[7] = 1000.0
    assert output_error(observed(rows, gradient))[1] == 20.0


def test_softmax_is_never_cut_at_the_top() -> None:
    rows = torch.rand(1000, 4, generator=torch.Generator().manual_seed(0)) * 0.01
    rows[0, 0] = 0.93
    for name in OBSERVERS:
        assert choose_range("softmax", observed(rows), name) == (0.0, pytest.approx(0.93))


def test_gelu_keeps_its_negative_end() -> None:
    rows = torch.nn.functional.gelu(3 * normal(100000))
    for name in OBSERVERS:
        assert choose_range("gelu", observed(rows), name)[0] == float(rows.min())


@settings(max_examples=50, deadline=None)
@given(st.floats(-100, 100), st.floats(-100, 100), st.integers(0, 9))
def test_rounding_is_within_half_a_step_inside_the_range(a: float, b: float, seed: int) -> None:
    low, high = min(a, b, 0.0), max(a, b, 0.0)
    step = max((high - low) / 255, 1e-12)
    values = torch.rand(64, generator=torch.Generator().manual_seed(seed)) * (high - low) + low
    error = (fake_quantize(values, low, high) - values).abs().max()
    assert float(error) <= step * 1.02 + 1e-6


def test_zero_stays_zero() -> None:
    assert float(fake_quantize(torch.zeros(1), -0.37, 5.1)) == 0.0


def test_weights_have_256_levels_a_row() -> None:
    rows = torch.randn(5, 4000, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 6)[:, None]
    rounded = rounded_rows(rows)
    assert all(len(row.unique()) <= 256 for row in rounded)
    steps = (rows.amax(1) - rows.amin(1)) / 255
    assert bool(((rounded - rows).abs().amax(1) <= 0.51 * steps).all())


def test_one_observer_a_kind() -> None:
    rows = normal(200000)
    rows[7] = 20.0
    found = ranges_of(
        {"embed": observed(rows), "blocks.0.gelu": observed(rows)}, {"": "minmax", "gelu": "percentile"}
    )
    assert found["embed"][1] == 20.0
    assert found["blocks.0.gelu"][1] < 6


def test_halves_that_differ_are_a_warning() -> None:
    rows = normal(64)
    low, high = rows.amin(1) - 1, rows.amax(1) + 1
    low[0::2] *= 5
    found = stability({"embed": TensorStatistics(rows, rows, low, high, 1)})
    assert found.warning is not None
    assert found.warning.startswith("64 calibration images are few for this model: ranges of 1 of 1 tensors")


def test_halves_that_agree_are_none() -> None:
    rows = torch.ones(64, 1)
    assert stability({"embed": TensorStatistics(rows, rows, -rows[:, 0], rows[:, 0], 1)}).warning is None
