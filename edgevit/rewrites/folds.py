"""Scales and shifts moved into the linear layers beside them: fewer operations, same function."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from edgevit.rewrites.canonical import require_canonical
from edgevit.rewrites.modules import rebuilt_attention
from edgevit.rewrites.result import RewriteResult
from edgevit.targets.profiles import Npu


def fold_attention_scale(model: nn.Module, npu: Npu | None = None) -> RewriteResult:
    """Multiply q's weights by 1/sqrt(head_dim) instead of q: softmax((s·q) kᵀ) = softmax((s·Wq x) kᵀ).

    With a norm on q the factor goes into that norm's weight and bias, which come last.
    """
    vit = copy.deepcopy(require_canonical(model, "fold-attention-scale"))
    folded = 0
    for block in vit.blocks:
        attention = rebuilt_attention(block.attn)
        if attention.scale != 1.0 and scale_queries(attention):
            block.attn, folded = attention, folded + 1
    if not folded:
        return RewriteResult(model, False, "no attention scale left to fold")
    return RewriteResult(vit, True, f"attention scale folded into q in {folded} blocks")


@torch.no_grad()
def scale_queries(attention: Any) -> bool:
    """Fold the scale where q's last linear step has weights to take it; say whether it had."""
    if isinstance(attention.q_norm, nn.Identity):
        attention.qkv.weight[: attention.attn_dim] *= attention.scale
        if attention.qkv.bias is not None:
            attention.qkv.bias[: attention.attn_dim] *= attention.scale
    elif getattr(attention.q_norm, "weight", None) is not None:
        attention.q_norm.weight *= attention.scale
        if getattr(attention.q_norm, "bias", None) is not None:
            attention.q_norm.bias *= attention.scale
    else:
        return False
    attention.scale = 1.0
    return True


def fold_norms(model: nn.Module, npu: Npu | None = None) -> RewriteResult:
    """Move each LayerNorm's weight g and bias β into its readers: W(g·z + β) + b = (W g) z + (Wβ + b).

    The norm stays a LayerNorm, with weight 1 and bias 0, so that compilers still recognise it. A norm whose
    output goes anywhere else (the residual stream, a maximum) is left alone.
    """
    vit = copy.deepcopy(require_canonical(model, "fold-norms"))
    folded = sum(fold_norm(norm, readers) for norm, readers in norms_and_readers(vit))
    if not folded:
        return RewriteResult(model, False, "no LayerNorm has weights to fold")
    return RewriteResult(
        vit, True, f"weight and bias of {folded} LayerNorms folded into the layers they feed"
    )


def norms_and_readers(vit: Any) -> list[tuple[Any, list[Any]]]:
    """Every norm with the complete list of linear layers that read it."""
    pairs: list[tuple[Any, list[Any]]] = []
    for block in vit.blocks:
        attention = block.attn
        readers = [attention.qkv] + ([attention.gate] if attention.gate is not None else [])
        pairs += [(block.norm1, readers), (block.norm2, [block.mlp.fc1]), (block.mlp.norm, [block.mlp.fc2])]
        if attention.gate is None:
            pairs.append((attention.norm, [attention.proj]))
    heads = [head for head in (vit.head, getattr(vit, "head_dist", None)) if head is not None]
    if all(isinstance(head, nn.Linear) for head in heads):
        pairs.append((vit.fc_norm, heads))
        # A mean over tokens, or taking one, commutes with a shift and scale per channel; a maximum doesn't.
        if (
            vit.attn_pool is None
            and vit.global_pool in ("token", "avg")
            and isinstance(vit.fc_norm, nn.Identity)
        ):
            pairs.append((vit.norm, heads))
    return pairs


@torch.no_grad()
def fold_norm(norm: Any, readers: list[Any]) -> bool:
    """Fold one norm into all its readers; False where it is absent or has nothing to fold."""
    if not isinstance(norm, nn.LayerNorm) or norm.weight is None:
        return False
    shift = torch.zeros_like(norm.weight) if norm.bias is None else norm.bias
    if bool((norm.weight == 1).all()) and bool((shift == 0).all()):
        return False
    for reader in readers:
        added = reader.weight @ shift
        if reader.bias is None and bool(added.any()):
            reader.bias = nn.Parameter(torch.zeros_like(added))
        if reader.bias is not None:
            reader.bias += added
        reader.weight *= norm.weight
    norm.weight.fill_(1.0)
    shift.zero_()
    return True


def fold_layer_scale(model: nn.Module, npu: Npu | None = None) -> RewriteResult:
    """Multiply rows of proj and fc2 by LayerScale's γ instead of their outputs: γ·(W x + b) = (γW) x + γb."""
    vit = copy.deepcopy(require_canonical(model, "fold-layer-scale"))
    folded = 0
    for block in vit.blocks:
        for name, linear in (("ls1", block.attn.proj), ("ls2", block.mlp.fc2)):
            scale = getattr(block, name)
            if isinstance(scale, nn.Identity):
                continue
            with torch.no_grad():
                linear.weight *= scale.gamma[:, None]
                if linear.bias is not None:
                    linear.bias *= scale.gamma
            setattr(block, name, nn.Identity())
            folded += 1
    if not folded:
        return RewriteResult(model, False, "the model has no LayerScale")
    return RewriteResult(vit, True, f"{folded} LayerScales folded into the layers before them")
