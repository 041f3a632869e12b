"""Token counts an NPU can transpose."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from edgevit.rewrites.canonical import require_canonical
from edgevit.rewrites.modules import HeadTokensBlock, PadTokens, rebuilt_attention
from edgevit.rewrites.result import RewriteResult
from edgevit.targets.profiles import Npu


def pad_tokens(model: nn.Module, npu: Npu | None) -> RewriteResult:
    """Append copies of the first token up to a multiple of `npu.transpose_alignment`, without weight.

    Copies stay copies through every block, so their activations are none that the model doesn't have anyway:
    int8 ranges don't change.
    """
    vit = require_canonical(model, "pad-tokens")
    alignment = npu.transpose_alignment if npu is not None else 1
    tokens = token_count(vit)
    missing = -tokens % alignment
    if missing == 0 or len(vit.blocks) == 0:
        return RewriteResult(model, False, f"{tokens} tokens are a multiple of {alignment} already")
    if any(getattr(block.attn, "padding", 0) for block in vit.blocks):
        return RewriteResult(model, False, "its tokens are padded already")
    padded = copy.deepcopy(vit)
    padded.patch_drop = PadTokens(missing)
    for block in padded.blocks:
        block.attn = rebuilt_attention(block.attn, padding=missing, tokens=tokens + missing)
    if not isinstance(padded.blocks[-1], HeadTokensBlock):
        padded.blocks[-1] = HeadTokensBlock(padded.blocks[-1], queries=None, returned=tokens)
    return RewriteResult(padded, True, f"{tokens} tokens padded to {tokens + missing}")


def token_count(vit: Any) -> int:
    """Tokens in the sequence: patches, class token and the like."""
    return int(vit.patch_embed.num_patches) + int(vit.num_prefix_tokens)
