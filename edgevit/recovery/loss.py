"""What a student is asked to reproduce: its teacher's logits and block outputs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional

from edgevit.surgery.steps import head, stem

TOKENS_WEIGHT = 0.5


def states_and_logits(vit: Any, images: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Tokens [n, tokens, dim] after each block, and logits [n, classes]."""
    tokens, states = stem(vit, images), []
    for block in vit.blocks:
        tokens = block(tokens)
        states.append(tokens)
    return states, head(vit, tokens)


def distillation_loss(
    logits: torch.Tensor, targets: torch.Tensor, found: list[torch.Tensor], wanted: list[torch.Tensor]
) -> torch.Tensor:
    """KL of the logits plus the mean relative squared error of block outputs.

    On different grids only prefix tokens and the patch tokens' mean are comparable.
    """
    expected = targets.float().log_softmax(-1)
    divergence = functional.kl_div(
        logits.float().log_softmax(-1), expected, log_target=True, reduction="batchmean"
    )
    errors = [
        relative_error(ours.float(), theirs.float()) for ours, theirs in zip(found, wanted, strict=True)
    ]
    return divergence + TOKENS_WEIGHT * (torch.stack(errors).mean() if errors else 0.0)


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """Squared error of tokens [n, tokens, dim] over their variance, prefix and patches alike."""
    if ours.shape != theirs.shape:
        # Other grids: the leading token and the mean over the tokens are what both have.
        ours = torch.stack([ours[:, 0], ours.mean(1)], dim=1)
        theirs = torch.stack([theirs[:, 0], theirs.mean(1)], dim=1)
    leading = (ours[:, 0] - theirs[:, 0]).square().mean() / variance(theirs[:, 0])
    return (leading + (ours - theirs).square().mean() / variance(theirs)) / 2


def variance(tokens: torch.Tensor) -> torch.Tensor:
    """Mean variance over images and tokens."""
    flat = tokens.reshape(-1, tokens.shape[-1])
    return flat.var(0, unbiased=False).mean().clamp_min(1e-6)


@contextmanager
def mixed_precision(device: torch.device) -> Iterator[None]:
    """bfloat16 products where the hardware has them; weights and sums stay float32."""
    supported = device.type == "cuda" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=supported):
        yield
