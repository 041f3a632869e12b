"""What a student is asked to reproduce: its teacher's logits and block outputs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from edgevit.compression.blocks import head, stem

# Each image has one prediction and many tokens: weighted towards predictions, a few hundred images are learnt by
# heart. On held-out images of a pruned DeiT-Ti a weight of 40 did as well in 1 800 samples as 4 did in 10 000.
TOKENS_WEIGHT = 40.0


@dataclass(frozen=True)
class Grids:
    """Patch grids (rows, columns) of student and teacher, and how many prefix tokens both have."""

    ours: tuple[int, int]
    theirs: tuple[int, int]
    prefix: int

    @classmethod
    def of(cls, student: Any, teacher: Any) -> Grids:
        """The grids of two canonical ViTs."""
        ours, theirs = (tuple(vit.patch_embed.grid_size) for vit in (student, teacher))
        return cls(ours, theirs, student.num_prefix_tokens)

    def comparable(self, tokens: torch.Tensor, own: tuple[int, int]) -> torch.Tensor:
        """Tokens [n, tokens, dim] of the grid `own` as both models have them.

        On different grids patch tokens have no counterpart: means over the cells of a grid half as fine do.
        """
        if self.ours == self.theirs:
            return tokens
        rows, columns = (max(1, min(pair) // 2) for pair in zip(self.ours, self.theirs, strict=True))
        patches = tokens[:, self.prefix :].transpose(1, 2).reshape(len(tokens), -1, *own)
        pooled = functional.adaptive_avg_pool2d(patches, (rows, columns)).flatten(2).transpose(1, 2)
        return torch.cat([tokens[:, : self.prefix], pooled], dim=1)


def states_and_logits(vit: Any, images: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Tokens [n, tokens, dim] after each block, and logits [n, classes]."""
    tokens, states = stem(vit, images), []
    for block in vit.blocks:
        tokens = block(tokens)
        states.append(tokens)
    return states, head(vit, tokens)


def distillation_loss(
    logits: torch.Tensor,
    targets: torch.Tensor,
    found: list[torch.Tensor],
    wanted: list[torch.Tensor],
    grids: Grids,
) -> torch.Tensor:
    """KL of the logits plus the mean relative squared error of block outputs."""
    expected = targets.float().log_softmax(-1)
    divergence = functional.kl_div(
        logits.float().log_softmax(-1), expected, log_target=True, reduction="batchmean"
    )
    errors = [
        relative_error(
            grids.comparable(ours.float(), grids.ours), grids.comparable(theirs.float(), grids.theirs)
        )
        for ours, theirs in zip(found, wanted, strict=True)
    ]
    return divergence + TOKENS_WEIGHT * (torch.stack(errors).mean() if errors else 0.0)


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """Squared error of tokens [n, tokens, dim] over their variance: half the first token's, half that of all."""
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
