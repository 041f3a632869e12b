"""Values refitted with the projection carry what a removed head of the same pattern did."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from edgevit.compression import fitting
from edgevit.compression.blocks import head_outputs
from edgevit.compression.calibration_split import split_images
from edgevit.compression.fitting import estimate_sensitivity, refit
from edgevit.compression.head_choice import drop_heads
from edgevit.compression.value_projection import spread_inputs
from tests.vits import images, random_vit


def same_pattern(**options: Any) -> Any:
    """A ViT whose heads 0 and 1 of block 0 look at the same tokens and write through the same projection.

    Their values differ: no projection of head 0's own values can replace head 1.
    """
    model = random_vit(img_size=64, **options)
    attention = model.blocks[0].attn
    size, dim = attention.head_dim, attention.attn_dim
    with torch.no_grad():
        for part in range(2):
            attention.qkv.weight[part * dim + size : part * dim + 2 * size] = attention.qkv.weight[
                part * dim : part * dim + size
            ]
            if attention.qkv.bias is not None:
                attention.qkv.bias[part * dim + size : part * dim + 2 * size] = attention.qkv.bias[
                    part * dim : part * dim + size
                ]
        attention.proj.weight[:, size : 2 * size] = attention.proj.weight[:, :size]
    return model


@pytest.mark.parametrize("options", [{"qkv_bias": True}, {"qk_norm": True, "proj_bias": False}])
def test_kept_values_take_over_a_head_of_the_same_pattern(options: dict[str, Any]) -> None:
    model = same_pattern(**options)
    split = split_images(images(model, 48))
    sensitivity, errors = estimate_sensitivity(model, split.fit), {}
    for layers in (("proj",), ("values",)):
        student = copy.deepcopy(model).requires_grad_(False)
        drop_heads(student.blocks[0].attn, [1])
        fits = refit(student, model, split, sensitivity, layers=layers)
        errors[layers] = fits[0].after / fits[0].before
    assert errors[("values",)] < 0.01 < 0.05 < errors[("proj",)]


def test_a_dense_model_needs_no_other_values() -> None:
    model = random_vit(img_size=48)
    split = split_images(images(model, 24))
    student = copy.deepcopy(model).requires_grad_(False)
    refit(student, model, split, estimate_sensitivity(model, split.fit), layers=("values",))
    with torch.no_grad():
        torch.testing.assert_close(student(split.check), model(split.check), rtol=1e-3, atol=1e-3)


def test_blocks_too_wide_to_measure_keep_their_values(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_vit()
    monkeypatch.setattr(fitting, "MAX_FEATURES", 71)
    split = split_images(images(model, 8))
    fits = refit(
        copy.deepcopy(model).requires_grad_(False), model, split, estimate_sensitivity(model, split.fit)
    )
    assert [fit.layer for fit in fits][:2] == ["blocks.0.attn.proj", "blocks.0.mlp.fc2"]


def test_spread_inputs_through_the_values_are_head_outputs() -> None:
    attention = random_vit(img_size=48, qk_norm=True, qkv_bias=False).blocks[0].attn
    tokens = torch.randn(2, 10, 24, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        spread = spread_inputs(attention, tokens, torch.arange(10)).reshape(2, 10, 3, 24)
        values = attention.qkv.weight[48:].reshape(3, 8, 24)
        found = torch.einsum("nthd,hcd->nthc", spread, values).reshape(2, 10, 24)
        torch.testing.assert_close(found, head_outputs(attention, tokens), rtol=1e-4, atol=1e-4)
