"""Attention for targets without a softmax kernel."""

from __future__ import annotations

import copy

from torch import nn

from edgevit.rewrites.canonical import require_canonical
from edgevit.rewrites.modules import rebuilt_attention
from edgevit.rewrites.result import RewriteResult
from edgevit.targets.profiles import Npu


def softmax_without_kernel(model: nn.Module, npu: Npu | None = None) -> RewriteResult:
    """Compute softmax from max-pool, ELU and L1 norm, which have kernels where softmax has none.

    See `parts.softmax_by_norm` for the algebra.
    """
    vit = copy.deepcopy(require_canonical(model, "softmax-by-norm"))
    changed = 0
    for block in vit.blocks:
        if getattr(block.attn, "by_norm", False):
            continue
        block.attn, changed = rebuilt_attention(block.attn, by_norm=True), changed + 1
    if not changed:
        return RewriteResult(model, False, "no softmax left to rewrite")
    return RewriteResult(vit, True, f"softmax of {changed} blocks runs as max-pool, ELU and L1 norm")
