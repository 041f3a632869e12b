"""The canonical ViT as one flat forward pass that shows every tensor an NPU stores.

A tap is called with a tensor's name and value, and returns what the rest of the model is to see: the same
value to observe it, a rounded one to simulate int8. It is called when the tensor is made (reader ""), and
again before each operation that reads it through a border where the number type may change.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from edgevit.any_threads import softmax
from edgevit.errors import InputError
from edgevit.quantize.tensor_names import OUTPUT_TAP
from edgevit.rewrites.canonical import why_not_canonical
from edgevit.rewrites.folds import fold_attention_scale, fold_layer_scale, fold_norms
from edgevit.rewrites.modules import SurgeryAttention, rebuilt_attention

Tap = Callable[[str, torch.Tensor, str], torch.Tensor]
BATCH = 8  # images: what fits a processor's cache is quickest


def why_not_tapped(module: Any) -> str | None:
    """None where `forward` computes this module; else one phrase naming the part it doesn't know."""
    problem = why_not_canonical(module)
    if problem is not None:
        return problem
    if not isinstance(module.norm_pre, nn.Identity):
        return "a norm before its blocks reads the embedded tokens"  # which may need 16 bits; none of its tensors
    for index, block in enumerate(module.blocks):
        attention, mlp = block.attn, block.mlp
        if attention.gate is not None or not isinstance(attention.norm, nn.Identity):
            return f"blocks.{index}.attn has a gate or a norm of its own"
        if not isinstance(mlp.norm, nn.Identity):
            return f"blocks.{index}.mlp has a norm of its own"
    return None


def prepared(model: nn.Module) -> Any:
    """A copy with LayerScale, norm weights and the attention scale folded, and one kind of attention.

    Raises InputError for a module `forward` can't compute.
    """
    problem = why_not_tapped(model)
    if problem is not None:
        raise InputError(
            "cannot condition this model for int8", problem, "Choose a recipe without conditioning"
        )
    vit: Any = copy.deepcopy(model)
    give_head(vit)
    for fold in (fold_layer_scale, fold_norms, fold_attention_scale):
        vit = fold(vit).module
    for block in vit.blocks:
        if not isinstance(block.attn, SurgeryAttention):
            block.attn = rebuilt_attention(block.attn)
    return vit.requires_grad_(False)


def give_head(vit: Any) -> None:
    """A linear layer in place of no head: it takes the last norm's weights and turns the stream back, exactly."""
    for name in ("head", "head_dist"):
        if isinstance(getattr(vit, name, None), nn.Identity):
            linear = nn.Linear(vit.num_features, vit.num_features).requires_grad_(False)
            nn.init.eye_(linear.weight)
            nn.init.zeros_(linear.bias)
            setattr(vit, name, linear)


def keep(_: str, value: torch.Tensor, reader: str = "") -> torch.Tensor:
    """The tap that changes nothing."""
    return value


def forward(vit: Any, images: torch.Tensor, tap: Tap = keep) -> torch.Tensor:
    """Outputs [n, classes] of a `prepared` ViT on normalised images [n, channels, H, W]."""
    x = tap("patch", vit.patch_embed(tap("input", images, "")), "")
    stream = "embed"
    x = tap(stream, vit.norm_pre(vit.patch_drop(vit._pos_embed(x))), "")
    for index, block in enumerate(vit.blocks):
        x = block_forward(block, x, tap, f"blocks.{index}.", stream)
        stream = f"blocks.{index}.residual2"
    final = vit.norm(read_by_head(vit, tap(stream, x, "norm")))
    return tap(OUTPUT_TAP, vit.forward_head(tap("norm", final, "")), "")


def read_by_head(vit: Any, x: torch.Tensor) -> torch.Tensor:
    """Only the leading tokens where the head reads no other: the rest must not widen a range."""
    return x[:, : vit.num_prefix_tokens] if vit.attn_pool is None and vit.global_pool == "token" else x


def block_forward(block: Any, x: torch.Tensor, tap: Tap, prefix: str, stream: str) -> torch.Tensor:
    """One pre-norm block: x [n, tokens, dim], made by the tap `stream`, to [n, tokens or fewer, dim]."""
    norm1, residual1, norm2, gelu, residual2 = (
        prefix + name for name in ("norm1", "residual1", "norm2", "gelu", "residual2")
    )
    normed = tap(norm1, block.norm1(tap(stream, x, norm1)), "")
    mixed = attend(block.attn, tap(norm1, normed, prefix + "q"), tap, prefix)
    branch = tap(prefix + "proj", block.ls1(block.attn.proj(mixed)), "")
    before = tap(stream, x, residual1)[:, : getattr(block, "queries", None)]
    x = tap(residual1, before + branch, "")
    normed = tap(norm2, block.norm2(tap(residual1, x, norm2)), "")
    hidden = tap(prefix + "fc1", block.mlp.fc1(tap(norm2, normed, prefix + "fc1")), "")
    hidden = tap(gelu, block.mlp.act(tap(prefix + "fc1", hidden, gelu)), "")
    branch = tap(prefix + "fc2", block.ls2(block.mlp.fc2(tap(gelu, hidden, prefix + "fc2"))), "")
    x = tap(residual1, x, residual2) + tap(prefix + "fc2", branch, residual2)
    # Compilers cut off what nobody reads before they add.
    return tap(residual2, x[:, : getattr(block, "returned", None)], "")


def attend(attention: Any, x: torch.Tensor, tap: Tap, prefix: str) -> torch.Tensor:
    """softmax(q kᵀ) v of x [n, tokens, dim], as proj reads it: heads side by side [n, queries, dim]."""
    out = prefix + "attention"
    q, k, v = (
        tap(prefix + name, tap(prefix + name, part, ""), out)
        for name, part in zip("qkv", attention.heads(x), strict=True)
    )
    scores = tap(prefix + "scores", q @ k.transpose(-2, -1), "")
    weights = tap(prefix + "softmax", softmax(scores), "")
    mixed = tap(out, (weights @ v).transpose(1, 2).flatten(2), "")
    return tap(out, mixed, prefix + "proj")


@torch.inference_mode()
def outputs_of(vit: Any, images: torch.Tensor, tap: Tap = keep, batch: int = BATCH) -> torch.Tensor:
    """Outputs [n, classes] in batches."""
    return torch.cat([forward(vit, part, tap) for part in torch.split(images, batch)])
