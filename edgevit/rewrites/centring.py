"""LayerNorms that need not subtract a mean, because nothing writes one to the residual stream."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from edgevit.rewrites.canonical import require_canonical
from edgevit.rewrites.modules import ExponentialNorm, MeanFreeNorm
from edgevit.rewrites.result import RewriteResult
from edgevit.targets.profiles import Npu


def norms_without_mean(model: nn.Module, npu: Npu | None = None) -> RewriteResult:
    """Take the mean over channels out of all that is added to the residual stream, and out of the norms' work.

    Exact because only LayerNorms read the stream, and they subtract that mean (SliceGPT, arXiv 2401.15024).
    """
    vit = copy.deepcopy(require_canonical(model, "norms-without-mean"))
    problem = why_mean_matters(vit)
    if problem is not None:
        return RewriteResult(model, False, problem)
    centre(vit)
    left = [name for name in stream_norms(vit) if isinstance(vit.get_submodule(name), nn.LayerNorm)]
    for name in left:
        vit.set_submodule(name, MeanFreeNorm(vit.get_submodule(name)))
    return RewriteResult(vit, True, f"{len(left)} LayerNorms no longer subtract a mean")


def stream_norms(vit: Any) -> list[str]:
    """Names of the norms that read the residual stream."""
    inside = [f"blocks.{index}.{name}" for index in range(len(vit.blocks)) for name in ("norm1", "norm2")]
    return [*inside, "norm"]


def why_mean_matters(vit: Any) -> str | None:
    """None where only LayerNorms read the residual stream and only linear layers write to it."""
    if isinstance(vit.norm, MeanFreeNorm | ExponentialNorm):
        return "no LayerNorm subtracts a mean"
    if not isinstance(vit.norm, nn.LayerNorm):
        return "its head reads the residual stream without a LayerNorm"
    if not isinstance(vit.norm_pre, nn.Identity) or not isinstance(vit.patch_embed.norm, nn.Identity):
        return "a LayerNorm writes to the residual stream"
    if any(not isinstance(scale, nn.Identity) for block in vit.blocks for scale in (block.ls1, block.ls2)):
        return "a LayerScale is not folded"
    return None


@torch.no_grad()
def centre(vit: Any) -> None:
    """Subtract from every writer of the stream its mean over the stream's channels."""
    for name in ("cls_token", "dist_token", "reg_token", "pos_embed"):
        parameter = getattr(vit, name, None)
        if parameter is not None:
            parameter -= parameter.double().mean(-1, keepdim=True)
    writers = [layer for block in vit.blocks for layer in (block.attn.proj, block.mlp.fc2)]
    for writer in (vit.patch_embed.proj, *writers):
        writer.weight -= writer.weight.double().mean(0, keepdim=True)
        if writer.bias is not None:
            writer.bias -= writer.bias.double().mean()
