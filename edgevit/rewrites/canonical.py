"""What rewrite understands: the canonical ViT, with the parts rewrites put in place themselves."""

from __future__ import annotations

from typing import Any

from torch import nn

from edgevit import torch_setup  # noqa: F401
from edgevit.errors import InputError
from edgevit.models import canonical

from timm.layers.attention import Attention  # isort: skip
from timm.models.vision_transformer import Block  # isort: skip

from edgevit.rewrites.modules import (
    ExponentialNorm,
    HeadTokensBlock,
    MeanFreeNorm,
    SurgeryAttention,
)

BLOCKS = (Block, HeadTokensBlock)
ATTENTIONS = (Attention, SurgeryAttention)


def why_not_canonical(module: Any) -> str | None:
    """None for a ViT rewrite can rewrite; else one phrase naming the part it doesn't understand."""
    return canonical.why_not_canonical(
        module,
        blocks=BLOCKS,
        attentions=ATTENTIONS,
        norms=(MeanFreeNorm, ExponentialNorm),
    )


def require_canonical(module: nn.Module, rewrite: str) -> Any:
    """The module, known to be canonical. Raises InputError naming the part that isn't."""
    problem = why_not_canonical(module)
    if problem is not None:
        raise InputError(
            f"cannot apply {rewrite}",
            problem,
            "Leave the exact rewrites out for this model; it still exports, quantizes and compiles",
        )
    return module
