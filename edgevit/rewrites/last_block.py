"""The last block, computed only for the tokens the head reads."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from edgevit.rewrites.canonical import require_canonical
from edgevit.rewrites.modules import HeadTokensBlock
from edgevit.rewrites.result import RewriteResult
from edgevit.targets.profiles import Npu


def trim_last_block(model: nn.Module, npu: Npu | None = None) -> RewriteResult:
    """Compute the last block's queries, projection and MLP for the head's tokens only; keys and values stay.

    Exact because nothing after the block reads another token. Heads that do (average, attention pooling)
    are left alone.
    """
    vit = require_canonical(model, "trim-tokens")
    read = tokens_read_by_head(vit)
    if read is None:
        return RewriteResult(model, False, "its head reads every token")
    if len(vit.blocks) == 0:
        return RewriteResult(model, False, "it has no blocks")
    if getattr(vit.blocks[-1], "queries", None) is not None:
        return RewriteResult(model, False, "the last block is already trimmed")
    # Transposes stay on the NPU only for multiples of its alignment; a few queries more cost next to nothing.
    alignment = npu.transpose_alignment if npu is not None else 1
    trimmed = copy.deepcopy(vit)
    trimmed.blocks[-1] = HeadTokensBlock(
        trimmed.blocks[-1], queries=-(-read // alignment) * alignment, returned=read
    )
    tokens = "the class token" if read == 1 else f"the first {read} tokens"
    return RewriteResult(trimmed, True, f"last block computes {tokens} only")


def tokens_read_by_head(vit: Any) -> int | None:
    """How many leading tokens the head reads; None if it may read them all."""
    if vit.attn_pool is not None or vit.global_pool != "token":
        return None
    return 2 if hasattr(vit, "head_dist") else 1
