"""Attention for targets without a softmax kernel."""

from __future__ import annotations

import copy

from torch import nn

from edgevit.schema import Npu
from edgevit.surgery.canonical import require_canonical
from edgevit.surgery.folds import scale_queries
from edgevit.surgery.outcome import Outcome
from edgevit.surgery.parts import rebuilt_attention


def softmax_without_kernel(model: nn.Module, npu: Npu | None = None) -> Outcome:
    """Compute softmax from max-pool, ELU, L2 norm and square: they have kernels where softmax has none.

    See `parts.softmax_by_norm`, which returns softmax(2s): the factor 1/2 goes into q's weights.
    """
    vit = copy.deepcopy(require_canonical(model, "softmax-by-norm"))
    changed = 0
    for block in vit.blocks:
        if getattr(block.attn, "by_norm", False):
            continue
        attention = rebuilt_attention(block.attn, by_norm=True)
        attention.scale *= 0.5
        scale_queries(attention)
        block.attn, changed = attention, changed + 1
    if not changed:
        return Outcome(model, False, "no softmax left to rewrite")
    return Outcome(vit, True, f"softmax of {changed} blocks runs as max-pool, ELU, L2 norm and square")
