"""The steps of a canonical ViT as functions, so that a fit can stop between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from edgevit import torch_setup  # noqa: F401
from edgevit.errors import InputError
from edgevit.rewrites.canonical import require_canonical

from timm.layers.attention import Attention  # isort: skip
from timm.layers.layer_scale import LayerScale  # isort: skip
from timm.models.vision_transformer import Block  # isort: skip

BATCH = 16
Function = Callable[..., torch.Tensor]


def require_prunable(model: nn.Module, rewrite: str) -> Any:
    """The module, a canonical ViT before any exact rewrite, on the CPU. Raises InputError naming what isn't."""
    vit = require_canonical(model, rewrite)
    for index, block in enumerate(vit.blocks):
        problem = None
        if type(block) is not Block or type(block.attn) is not Attention:
            problem = f"blocks.{index} is already rewritten"
        elif not isinstance(block.attn.norm, nn.Identity):
            problem = f"blocks.{index}.attn.norm spans all heads"
        elif block.attn.gate is not None:
            problem = f"blocks.{index}.attn.gate multiplies the heads"
        if problem:
            raise InputError(
                f"cannot apply {rewrite}", problem, "Leave it out, or apply it before the rewrites"
            )
    return vit


def stem(vit: Any, images: torch.Tensor) -> torch.Tensor:
    """What enters the first block, [n, tokens, dim]."""
    out: torch.Tensor = vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(images))))
    return out


def head(vit: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Outputs [n, classes] of what leaves the last block."""
    outputs: torch.Tensor = vit.forward_head(vit.norm(tokens))
    return outputs


def head_outputs(attention: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Outputs of all heads side by side, [n, tokens, heads · head_dim]: what the projection reads."""
    count, length, _ = tokens.shape
    parts = attention.qkv(tokens).reshape(count, length, 3, attention.num_heads, attention.head_dim)
    q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
    q, k = attention.q_norm(q), attention.k_norm(k)
    out = functional.scaled_dot_product_attention(q, k, v, scale=attention.scale)
    return out.transpose(1, 2).reshape(count, length, attention.attn_dim)


def hidden(mlp: Any, tokens: torch.Tensor) -> torch.Tensor:
    """What fc2 reads, [n, tokens, neurons]."""
    out: torch.Tensor = mlp.norm(mlp.act(mlp.fc1(tokens)))
    return out


def after_attention(block: Any, tokens: torch.Tensor) -> torch.Tensor:
    out: torch.Tensor = tokens + block.ls1(block.attn(block.norm1(tokens)))
    return out


def after_mlp(block: Any, tokens: torch.Tensor) -> torch.Tensor:
    out: torch.Tensor = tokens + block.ls2(block.mlp(block.norm2(tokens)))
    return out


def in_batches(function: Function, *arrays: torch.Tensor) -> torch.Tensor:
    """A function of batches, over whole arrays."""
    parts = [function(*(array[i : i + BATCH] for array in arrays)) for i in range(0, len(arrays[0]), BATCH)]
    return torch.cat(parts)


def outputs_of(vit: Any, images: torch.Tensor) -> torch.Tensor:
    """Outputs [n, classes], in batches."""
    return in_batches(vit, images)


def unscaled(residual: torch.Tensor, scale: nn.Module) -> torch.Tensor:
    """What a layer must add before its LayerScale γ for `residual` to come out; 0 where γ is 0."""
    if not isinstance(scale, LayerScale):
        return residual
    gamma = scale.gamma.detach()
    return residual * torch.where(gamma == 0, 0.0, 1.0 / torch.where(gamma == 0, 1.0, gamma))
