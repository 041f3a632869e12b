"""Which modules are the canonical ViT: timm's VisionTransformer, DeiT's with two heads included, part by part."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from edgevit import torch_setup  # noqa: F401

from timm.layers import activations  # isort: skip
from timm.layers.attention_pool import AttentionPoolLatent  # isort: skip
from timm.layers.attention import Attention  # isort: skip
from timm.layers.drop import DropPath  # isort: skip
from timm.layers.layer_scale import LayerScale  # isort: skip
from timm.layers.mlp import Mlp  # isort: skip
from timm.layers.norm import LayerNorm, LayerNormFp32  # isort: skip
from timm.layers.patch_dropout import PatchDropout  # isort: skip
from timm.layers.patch_embed import PatchEmbed  # isort: skip
from timm.models.deit import VisionTransformerDistilled  # isort: skip
from timm.models.vision_transformer import Block, VisionTransformer  # isort: skip

Kinds = tuple[type[Any], ...]
NOTHING = (type(None),)
LINEAR = (nn.Linear,)
HEAD = (nn.Identity, *LINEAR)  # a model without a classifier gives what it would read
NORM = (nn.LayerNorm, LayerNorm, LayerNormFp32)
MAYBE_NORM = (nn.Identity, *NORM)
SCALE = (nn.Identity, LayerScale)
DROP = (nn.Identity, nn.Dropout, DropPath, PatchDropout)  # nothing in eval mode
# Each output depends on the input at the same place alone: channels may be reordered, removed or padded.
ELEMENTWISE = (
    *(nn.GELU, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SiLU, nn.Mish, nn.Hardswish, nn.Sigmoid, nn.Tanh),
    *(activations.GELU, activations.GELUTanh, activations.QuickGELU, activations.Swish, activations.Mish),
    *(activations.HardSwish, activations.Sigmoid, activations.Tanh),
)
MODELS = (VisionTransformer, VisionTransformerDistilled)
POOLINGS = ("token", "avg", "max", "avgmax", "map")  # timm's names of how a head reads the tokens


def why_not_canonical(
    module: Any,
    *,
    blocks: Kinds = (Block,),
    attentions: Kinds = (Attention,),
    norms: Kinds = (),
) -> str | None:
    """None for a ViT rewrite can rewrite; else one phrase naming the part it doesn't understand.

    Types are compared exactly: a subclass may compute something else under the same attribute names. Rewrite
    passes the kinds of part it puts in place itself (`norms`: for LayerNorm).
    """
    if type(module) not in MODELS:
        return f"{type(module).__name__} is not timm's VisionTransformer"
    if module.training:
        return "it is in training mode, where dropout is random"
    if type(module.patch_embed) is not PatchEmbed:
        return f"patch_embed is a {type(module.patch_embed).__name__}"
    if module.dynamic_img_size:
        return "it resizes its position embedding at run time (dynamic_img_size)"
    if module.global_pool not in POOLINGS:
        return f"its head pools by {module.global_pool!r}, not by {' or '.join(POOLINGS)}"
    return (
        wrong_block(module, blocks, attentions, norms)
        or wrong_part(module, "", model_parts(module, norms))
        or changed_behaviour(module)
    )


def model_parts(module: Any, norms: Kinds) -> dict[str, Kinds]:
    """Every part outside the blocks with the types it may have."""
    parts: dict[str, Kinds] = {
        "patch_embed.proj": (nn.Conv2d,),
        "patch_embed.norm": MAYBE_NORM,
        "pos_drop": DROP,
        "patch_drop": DROP,
        "norm_pre": MAYBE_NORM,
        "blocks": (nn.Sequential, nn.ModuleList),
        "norm": (*MAYBE_NORM, *norms),
        "attn_pool": (AttentionPoolLatent,) if module.global_pool == "map" else NOTHING,
        "fc_norm": MAYBE_NORM,
        "head_drop": DROP,
        "head": HEAD,
    }
    return parts | ({"head_dist": HEAD} if hasattr(module, "head_dist") else {})


def wrong_block(module: Any, blocks: Kinds, attentions: Kinds, norms: Kinds) -> str | None:
    """The first part of a pre-norm block that isn't one of the known ones."""
    parts: dict[str, Kinds] = {
        "norm1": (*NORM, *norms),
        "attn": attentions,
        "attn.qkv": LINEAR,
        "attn.q_norm": MAYBE_NORM,
        "attn.k_norm": MAYBE_NORM,
        "attn.norm": MAYBE_NORM,
        "attn.gate": (*NOTHING, *LINEAR),
        "attn.proj": LINEAR,
        "ls1": SCALE,
        "norm2": (*NORM, *norms),
        "mlp": (Mlp,),
        "mlp.fc1": LINEAR,
        "mlp.act": ELEMENTWISE,
        "mlp.norm": MAYBE_NORM,
        "mlp.fc2": LINEAR,
        "ls2": SCALE,
    }
    for index, block in enumerate(module.blocks):
        name = f"blocks.{index}"
        if type(block) not in blocks:
            return f"{name} is a {type(block).__name__}"
        problem = wrong_part(block, f"{name}.", parts)
        if problem is not None:
            return problem
    return None


def wrong_part(owner: Any, prefix: str, parts: dict[str, Kinds]) -> str | None:
    """The first part, by dotted name, whose type is none of those listed for it."""
    for name, kinds in parts.items():
        part = owner
        for step in name.split("."):
            part = getattr(part, step, None)
        if type(part) not in kinds:
            return (
                f"{prefix}{name} is a {type(part).__name__}"
                if part is not None
                else f"it has no {prefix}{name}"
            )
    return None


def changed_behaviour(module: nn.Module) -> str | None:
    """The first part that computes something else than its type says: by a hook, or a method of its own."""
    for name, part in module.named_modules():
        where = name or "it"
        # No public question for this; torch itself reads these two.
        if part._forward_hooks or part._forward_pre_hooks:
            return f"{where} has a forward hook"
        own = [key for key in vars(part) if inspect.isfunction(getattr(type(part), key, None))]
        if own:
            return f"{where} has a {own[0]} of its own"
    return None
