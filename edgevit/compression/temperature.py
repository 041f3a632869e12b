"""Attention for another number of tokens: a softmax over fewer is sharper than the one that was trained. Lossy."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import nn

from edgevit import torch_setup  # noqa: F401
from edgevit.errors import InputError
from edgevit.rewrites.canonical import require_canonical

from timm.layers.attention import Attention  # isort: skip


def temperature(tokens: int, trained: int) -> float:
    """What attention scores are multiplied by so that a softmax over `tokens` is as spread as over `trained`.

    The ratio of the logarithms keeps the share of the entropy (Chiang and Cholak 2022, "Overcoming a theoretical
    limitation of self-attention").
    """
    return math.log(max(2, tokens)) / math.log(max(2, trained))


@torch.no_grad()
def scale_attention(model: nn.Module, factor: float) -> nn.Module:
    """A copy of a canonical ViT whose attention scores are `factor` times as large, at no cost: q takes it.

    Raises InputError for a part that isn't understood.
    """
    vit: Any = copy.deepcopy(require_canonical(model, "a change of the attention's temperature"))
    for index, block in enumerate(vit.blocks):
        attention = block.attn
        if type(attention) is not Attention:
            raise InputError(
                "cannot change the attention's temperature",
                f"blocks.{index}.attn is already rewritten",
                "Change the resolution before the exact rewrites",
            )
        norm = attention.q_norm
        if isinstance(norm, nn.Identity):
            size = attention.num_heads * attention.head_dim
            attention.qkv.weight[:size] *= factor
            if attention.qkv.bias is not None:
                attention.qkv.bias[:size] *= factor
        else:
            set_scaled(norm, factor)
    scaled: nn.Module = vit
    return scaled


def set_scaled(norm: Any, factor: float) -> None:
    """Multiply a LayerNorm's output, in place; one without an affine gets one."""
    shape = norm.normalized_shape
    weight = torch.ones(shape) if norm.weight is None else norm.weight
    norm.weight = nn.Parameter(weight * factor, requires_grad=weight.requires_grad)
    if norm.bias is not None:
        norm.bias *= factor
