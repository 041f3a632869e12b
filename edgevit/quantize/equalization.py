"""Exact changes of weights inside a block that leave int8 less to lose.

Each takes a `prepared` ViT and statistics of its tensors, and gives a changed copy with the same outputs to
float rounding. Blocks that normalise q or k are left out of what would not be exact there.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from edgevit.quantize.statistics import Statistics

LIMIT = 8.0  # a larger factor would only move a tensor's trouble into a weight


@torch.no_grad()
def centre_values(vit: Any, statistics: Statistics) -> Any:
    """Values get mean 0 and proj's bias takes it: P (V + 1mᵀ) = P V + 1mᵀ, as rows of P sum to 1.

    Rows of an int8 P don't quite sum to 1; what they miss then multiplies values near zero.
    """
    changed = copy.deepcopy(vit)
    for index, block in enumerate(changed.blocks):
        attention = block.attn
        mean = statistics[f"blocks.{index}.v"].rows.mean(0)
        add_to_bias(attention.qkv, value_rows(attention), -mean)
        add_to_bias(attention.proj, slice(None), attention.proj.weight @ mean)
    return changed


@torch.no_grad()
def centre_keys(vit: Any, statistics: Statistics) -> Any:
    """Keys get mean 0: a constant added to all keys shifts all scores of a query alike, softmax ignores it."""
    changed = copy.deepcopy(vit)
    for index, block in enumerate(changed.blocks):
        attention = block.attn
        if isinstance(attention.k_norm, nn.Identity):
            mean = statistics[f"blocks.{index}.k"].rows.mean(0)
            add_to_bias(attention.qkv, key_rows(attention), -mean)
    return changed


@torch.no_grad()
def equalise_values(vit: Any, statistics: Statistics) -> Any:
    """Channels of v get one range: v · s, and proj's inputs / s. Attention mixes tokens, never channels."""
    changed = copy.deepcopy(vit)
    for index, block in enumerate(changed.blocks):
        attention = block.attn
        widths = statistics[f"blocks.{index}.attention"].rows.abs().amax(0)
        scale = bounded(widths.clamp(min=1e-6).log().mean().exp() / widths.clamp(min=1e-6))
        scale_rows(attention.qkv, value_rows(attention), scale)
        attention.proj.weight /= scale
    return changed


@torch.no_grad()
def equalise_queries(vit: Any, statistics: Statistics) -> Any:
    """Channel i of q times s_i and of k over s_i, so that their ranges are balanced: q kᵀ is unchanged."""
    changed = copy.deepcopy(vit)
    for index, block in enumerate(changed.blocks):
        attention = block.attn
        if not isinstance(attention.q_norm, nn.Identity) or not isinstance(attention.k_norm, nn.Identity):
            continue
        q, k = (
            statistics[f"blocks.{index}.{name}"].rows.abs().amax(0).clamp(min=1e-6) / 1.0
            for name in ("q", "k")
        )
        # Relative to the widest: the geometric mean of both shares, then each is as even as the other.
        scale = bounded(((k / k.max()) / (q / q.max())).sqrt())
        scale_rows(attention.qkv, slice(0, attention.attn_dim), scale)
        scale_rows(attention.qkv, key_rows(attention), 1 / scale)
    return changed


def bounded(scale: torch.Tensor) -> torch.Tensor:
    """Factors kept within LIMIT."""
    return scale.clamp(1 / LIMIT, LIMIT)


def key_rows(attention: Any) -> slice:
    """Which outputs of qkv are keys."""
    return slice(attention.attn_dim, 2 * attention.attn_dim)


def value_rows(attention: Any) -> slice:
    """Which outputs of qkv are values."""
    return slice(2 * attention.attn_dim, None)


def add_to_bias(layer: Any, rows: slice, amount: torch.Tensor) -> None:
    """Add to part of a bias, made if there is none."""
    if layer.bias is None:
        layer.bias = nn.Parameter(layer.weight.new_zeros(len(layer.weight)), requires_grad=False)
    layer.bias[rows] += amount


def scale_rows(layer: Any, rows: slice, scale: torch.Tensor) -> None:
    """Multiply part of a layer's outputs."""
    layer.weight[rows] *= scale[:, None]
    if layer.bias is not None:
        layer.bias[rows] *= scale
