"""Least squares: exact where it can be, and never worse on images held out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgevit.compression.compensation import Moments, correct, remaining, solve


def tokens(count: int = 400, features: int = 6, outputs: int = 3) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, features, generator=generator, dtype=torch.float64) + 2.0
    weight = torch.randn(outputs, features, generator=generator, dtype=torch.float64)
    return x, weight, torch.randn(outputs, generator=generator, dtype=torch.float64)


def moments(x: torch.Tensor, r: torch.Tensor, weights: torch.Tensor | None = None) -> Moments:
    found = Moments(x.shape[-1], r.shape[-1])
    weights = torch.ones(len(x), dtype=torch.float64) if weights is None else weights
    for part in torch.arange(len(x)).split(70):
        found.add(x[part], r[part], weights[part])
    return found


def test_a_linear_residual_is_found() -> None:
    x, weight, bias = tokens()
    both = moments(x, x @ weight.T + bias).centred()
    found = solve(both, both)
    torch.testing.assert_close(found.weight, weight, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found.bias, bias, rtol=1e-2, atol=1e-3)
    assert found.after < 1e-6 * found.before


def test_remaining_is_the_mean_squared_residual() -> None:
    x, weight, bias = tokens()
    r = torch.tanh(x @ weight.T)
    weights = torch.rand(len(x), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    errors = (r - x @ (0.1 * weight).T - bias).square().sum(1)
    expected = float((errors * weights).sum() / weights.sum())
    assert remaining(moments(x, r, weights).centred(), 0.1 * weight, bias) == pytest.approx(expected)


def test_noise_is_not_fitted() -> None:
    generator = torch.Generator().manual_seed(0)
    x, r = torch.randn(40, 30, generator=generator), torch.randn(40, 3, generator=generator)
    other = torch.randn(400, 30, generator=generator), torch.randn(400, 3, generator=generator)
    fit, check = moments(x, r).centred(), moments(*other).centred()
    found = solve(fit, check)
    assert found.after <= found.before
    assert found.weight.norm() < 0.3 * solve(fit, fit).weight.norm()


def test_tokens_without_weight_do_not_count() -> None:
    x, weight, bias = tokens()
    r = x @ weight.T + bias
    weights = (torch.arange(len(x)) < 300).double()
    spoiled = torch.where(weights[:, None] > 0, r, torch.tensor(1e3, dtype=torch.float64))
    assert solve(*(moments(x, spoiled, weights).centred(),) * 2).after < 1e-4


def test_a_removed_feature_that_others_span_is_replaced_exactly() -> None:
    x, weight, _ = tokens()
    x = torch.cat([x, x[:, :2] @ torch.tensor([[1.0], [2.0]], dtype=torch.float64)], dim=1)
    weight = torch.cat([weight, torch.ones(3, 1, dtype=torch.float64)], dim=1)
    whole = moments(x, torch.zeros(len(x), 3, dtype=torch.float64)).centred()
    left = whole.without(torch.tensor([6]), torch.arange(6), weight)
    found = solve(left, left)
    expected = torch.tensor([[1.0, 2, 0, 0, 0, 0]], dtype=torch.float64).expand(3, 6)
    torch.testing.assert_close(found.weight, expected, rtol=1e-3, atol=1e-3)
    assert left.rr.sum() > 1 and found.after < 1e-6


def test_a_layer_gets_a_bias_only_when_it_needs_one() -> None:
    x, weight, bias = tokens()
    for shift, needed in ((torch.zeros(3, dtype=torch.float64), False), (bias, True)):
        layer = nn.Linear(6, 3, bias=False)
        whole = moments(x - x.mean(0), (x - x.mean(0)) @ weight.T + shift).centred()
        found = solve(whole, whole)
        if not needed:
            assert found.bias.abs().max() < 1e-9
            continue
        correct(layer, found)
        assert layer.bias is not None
        torch.testing.assert_close(layer.bias.double(), bias, rtol=1e-3, atol=1e-3)


def test_nothing_to_fit_on_is_an_error() -> None:
    with pytest.raises(ValueError, match="no weighted tokens to fit on"):
        Moments(2, 2).centred()
