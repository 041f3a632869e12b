"""LayerNorms written as sums of exponentials stay LayerNorms, on the rows they were made for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgevit.rewrites.exponential_norms import (
    MARGIN,
    TOLERANCE,
    by_exponentials,
    inverse_root,
    norms_by_exponentials,
)
from edgevit.rewrites.modules import CUT_OFF, ExponentialNorm
from tests.vits import images, random_vit


@pytest.mark.parametrize("ratio", [2.0, 64.0, 4096.0, 65536.0])
def test_the_sum_is_the_inverse_root_over_the_whole_range(ratio: float) -> None:
    rates, shares = inverse_root(ratio)
    v = np.geomspace(1, ratio, 3001)  # not the points it was fitted on
    terms = np.exp(np.maximum(-np.outer(v, rates), -CUT_OFF)) - np.exp(-CUT_OFF)
    assert np.abs((terms @ shares[:-1] + shares[-1]) * np.sqrt(v) - 1).max() < 1.1 * TOLERANCE
    assert (shares >= 0).all()  # nothing cancels in float32 or int8


def test_a_range_that_so_few_terms_cannot_cover_is_refused() -> None:
    with pytest.raises(ValueError, match=r"32 exponentials reach 1/sqrt\(v\) over 1..1.09951e\+12 to"):
        inverse_root(2.0**40)


@settings(max_examples=50, deadline=None)
@given(
    dim=st.integers(6, 200),
    spread=st.floats(1e-3, 1e3),
    ratio=st.floats(1, 4096),
    eps=st.sampled_from([1e-6, 1e-5, 1e-3]),
    seed=st.integers(0, 999),
)
def test_rows_of_any_width_and_spread_are_normalised(
    dim: int, spread: float, ratio: float, eps: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(9, dim, generator=generator)
    rows = rows - rows.mean(-1, keepdim=True)
    rows = rows / rows.var(-1, unbiased=False, keepdim=True).sqrt()
    rows = rows * torch.linspace(spread, spread * ratio**0.5, 9)[:, None]
    norm = torch.nn.LayerNorm(dim, eps=eps)
    with torch.no_grad():
        norm.weight.copy_(torch.randn(dim, generator=generator))
        norm.bias.copy_(torch.randn(dim, generator=generator))
    variance = rows.var(-1, unbiased=False) + eps
    found = by_exponentials(norm, float(variance.min()) / MARGIN, float(variance.max()) * MARGIN)
    torch.testing.assert_close(found(rows), norm(rows), rtol=1e-4, atol=1e-4)


def test_every_norm_of_a_vit_is_replaced_and_the_function_stays() -> None:
    model = random_vit()
    result = norms_by_exponentials(model, None, images(model))
    with torch.inference_mode():
        expected, found = model(images(model)), result.module(images(model))
    assert result.what == "5 of 5 LayerNorms run as sums of exponentials"
    assert sum(isinstance(part, ExponentialNorm) for part in result.module.modules()) == 5
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_other_images_than_those_seen_may_spread_their_rows_twice_as_much() -> None:
    model = random_vit()
    rewritten = norms_by_exponentials(model, None, images(model)).module
    other = 2 * images(model, seed=7)
    with torch.inference_mode():
        torch.testing.assert_close(rewritten(other), model(other), rtol=1e-3, atol=1e-3)


def test_a_norm_whose_rows_are_too_unlike_for_int8_stays() -> None:
    model = random_vit()
    with torch.no_grad():
        model.cls_token.zero_()
        model.pos_embed[:, 0] = 1e-4 * model.pos_embed[:, 1]
    result = norms_by_exponentials(model, None, images(model))
    assert result.what == "4 of 5 LayerNorms run as sums of exponentials"
    assert isinstance(result.module.blocks[0].norm1, torch.nn.LayerNorm)


def test_a_model_whose_mean_matters_is_left_alone() -> None:
    model = random_vit(pre_norm=True)
    result = norms_by_exponentials(model, None, images(model))
    assert (result.module is model, result.what) == (True, "a LayerNorm writes to the residual stream")
