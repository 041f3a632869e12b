"""Attention spread for another number of tokens: exactly scaled outputs, on any ViT."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgevit.compression.blocks import stem
from edgevit.compression.temperature import scale_attention, temperature
from edgevit.rewrites.canonical import why_not_canonical
from tests.vits import images, vits


def attention_logits(block: Any, tokens: torch.Tensor) -> torch.Tensor:
    attention = block.attn
    count, length, _ = tokens.shape
    parts = attention.qkv(block.norm1(tokens)).reshape(count, length, 3, attention.num_heads, -1)
    q, k, _ = parts.permute(2, 0, 3, 1, 4).unbind(0)
    return attention.q_norm(q) @ attention.k_norm(k).transpose(-1, -2)


@settings(max_examples=20, deadline=None)
@given(model=vits(), factor=st.floats(0.5, 2))
def test_attention_logits_are_scaled_and_nothing_else(model: Any, factor: float) -> None:
    scaled: Any = scale_attention(model, factor)
    assert why_not_canonical(scaled) is None
    tokens = stem(model, images(model))
    for before, after in zip(model.blocks, scaled.blocks, strict=True):
        expected = factor * attention_logits(before, tokens)
        torch.testing.assert_close(attention_logits(after, tokens), expected, rtol=1e-4, atol=1e-4)
    rows = model.blocks[0].attn.attn_dim
    same = scaled.blocks[0].attn.qkv.weight[rows:], model.blocks[0].attn.qkv.weight[rows:]
    torch.testing.assert_close(*same, rtol=0, atol=0)


def test_fewer_tokens_ask_for_flatter_attention() -> None:
    assert temperature(197, 197) == 1
    assert temperature(101, 197) == pytest.approx(0.8736, abs=1e-4)
    assert temperature(577, 197) > 1
