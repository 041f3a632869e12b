"""What surgery understands: timm's plain VisionTransformer, checked part by part and refused by name."""

from __future__ import annotations

from typing import Any

from torch import nn

from edgevit import torch_setup  # noqa: F401
from edgevit.errors import InputError

from timm.layers.attention import Attention  # isort: skip
from timm.layers.layer_scale import LayerScale  # isort: skip
from timm.layers.mlp import Mlp  # isort: skip
from timm.layers.patch_embed import PatchEmbed  # isort: skip
from timm.models.deit import VisionTransformerDistilled  # isort: skip
from timm.models.vision_transformer import Block, VisionTransformer  # isort: skip

from edgevit.surgery.parts import HeadTokensBlock, SplitPatchEmbed, SurgeryAttention

BLOCKS = (Block, HeadTokensBlock)
ATTENTIONS = (Attention, SurgeryAttention)
STEMS = (PatchEmbed, SplitPatchEmbed)


def why_not_canonical(module: Any) -> str | None:
    """None for a ViT surgery can rewrite; else one phrase naming the part it doesn't understand.

    Types are compared exactly: a subclass may compute something else under the same attribute names.
    """
    if type(module) not in (VisionTransformer, VisionTransformerDistilled):
        return f"{type(module).__name__} is not timm's VisionTransformer"
    if module.training:
        return "it is in training mode, where dropout is random"
    if type(module.patch_embed) not in STEMS:
        return f"patch_embed is a {type(module.patch_embed).__name__}"
    if module.dynamic_img_size:
        return "it resizes its position embedding at run time (dynamic_img_size)"
    for index, block in enumerate(module.blocks):
        problem = why_not_canonical_block(block)
        if problem is not None:
            return f"blocks.{index}{problem}"
    return None


def why_not_canonical_block(block: Any) -> str | None:
    """None for a pre-norm block of known parts; else the rest of a phrase that starts with its name."""
    if type(block) not in BLOCKS:
        return f" is a {type(block).__name__}"
    for name, kinds in (("attn", ATTENTIONS), ("mlp", (Mlp,))):
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


def require_canonical(module: nn.Module, surgery: str) -> Any:
    """The module, known to be canonical. Raises InputError naming the part that isn't."""
    problem = why_not_canonical(module)
    if problem is not None:
        raise InputError(
            f"cannot apply {surgery}",
            problem,
            "Leave the exact rewrites out for this model; it still exports, quantizes and compiles",
        )
    return module
