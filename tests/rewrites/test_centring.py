"""LayerNorms lose their mean only where nothing can tell."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from edgevit.rewrites.centring import norms_without_mean
from edgevit.rewrites.modules import MeanFreeNorm
from tests.vits import images, random_vit


def test_stream_has_no_mean_and_the_function_stays() -> None:
    model = random_vit(reg_tokens=1)
    model.pos_embed.data += 3.0  # a mean worth removing
    result = norms_without_mean(model)
    seen: list[torch.Tensor] = []
    result.module.norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        expected, found = model(images(model)), result.module(images(model))
    assert result.what == "5 LayerNorms no longer subtract a mean"
    assert float(seen[0].mean(-1).abs().max()) < 1e-5 * float(seen[0].abs().max())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_norm_of_rows_without_mean_is_layer_norm() -> None:
    norm = torch.nn.LayerNorm(24, eps=1e-3)
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 2, 24))
        norm.bias.copy_(torch.linspace(-1, 1, 24))
    rows = 0.01 * torch.randn(5, 24, generator=torch.Generator().manual_seed(0))  # eps counts
    rows -= rows.mean(-1, keepdim=True)
    torch.testing.assert_close(MeanFreeNorm(norm)(rows), norm(rows))


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"pre_norm": True}, "a LayerNorm writes to the residual stream"),
        ({"init_values": 0.1}, "a LayerScale is not folded"),
        (
            {"global_pool": "avg", "fc_norm": True},
            "its head reads the residual stream without a LayerNorm",
        ),
    ],
)
def test_models_whose_mean_matters_are_left_alone(options: dict[str, Any], why: str) -> None:
    model = random_vit(**options)
    result = norms_without_mean(model)
    assert (result.module is model, result.changed, result.what) == (True, False, why)
