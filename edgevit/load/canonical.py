"""Which modules are the canonical ViT: timm's plain VisionTransformer, checked part by part."""

from __future__ import annotations

from typing import Any

from torch import nn

from edgevit import torch_setup  # noqa: F401

from timm.layers.attention import Attention  # isort: skip
from timm.layers.layer_scale import LayerScale  # isort: skip
from timm.layers.mlp import Mlp  # isort: skip
from timm.layers.patch_embed import PatchEmbed  # isort: skip
from timm.models.vision_transformer import Block, VisionTransformer  # isort: skip

Kinds = tuple[type[nn.Module], ...]


def why_not_canonical(
    module: Any,
    *,
    models: Kinds = (VisionTransformer,),
    stems: Kinds = (PatchEmbed,),
    blocks: Kinds = (Block,),
    attentions: Kinds = (Attention,),
) -> str | None:
    """None for a ViT surgery can rewrite; else one phrase naming the part it doesn't understand.

    Types are compared exactly: a subclass may compute something else under the same attribute names. Surgery
    passes the kinds of part it puts in place itself.
    """
    if type(module) not in models:
        return f"{type(module).__name__} is not timm's VisionTransformer"
    if module.training:
        return "it is in training mode, where dropout is random"
    if type(module.patch_embed) not in stems:
        return f"patch_embed is a {type(module.patch_embed).__name__}"
    if module.dynamic_img_size:
        return "it resizes its position embedding at run time (dynamic_img_size)"
    for index, block in enumerate(module.blocks):
        problem = why_not_canonical_block(block, blocks=blocks, attentions=attentions)
        if problem is not None:
            return f"blocks.{index}{problem}"
    return None


def why_not_canonical_block(
    block: Any, *, blocks: Kinds = (Block,), attentions: Kinds = (Attention,)
) -> str | None:
    """None for a pre-norm block of known parts; else the rest of a phrase that starts with its name."""
    if type(block) not in blocks:
        return f" is a {type(block).__name__}"
    for name, kinds in (("attn", attentions), ("mlp", (Mlp,))):
        part = getattr(block, name)
        if type(part) not in kinds:
            return f".{name} is a {type(part).__name__}"
    for name in ("norm1", "norm2"):
        if not isinstance(getattr(block, name), nn.LayerNorm):
            return f".{name} is a {type(getattr(block, name)).__name__}"
    for name in ("ls1", "ls2"):
        if not isinstance(getattr(block, name), nn.Identity | LayerScale):
            return f".{name} is a {type(getattr(block, name)).__name__}"
    if not isinstance(block.mlp.fc1, nn.Linear):
        return ".mlp.fc1 is not a Linear"
    return None
