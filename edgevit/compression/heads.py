"""Attention heads removed for good, and the rest refitted by least squares. Lossy, so measured."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from edgevit.compression.blocks import outputs_of, require_prunable
from edgevit.compression.calibration_split import Split, split_images
from edgevit.compression.fitting import LayerFit, TokenSensitivity, estimate_sensitivity, refit
from edgevit.compression.head_choice import Removal, choose_heads, drop_heads, frozen_copy, heads_of
from edgevit.errors import InputError
from edgevit.metrics.difference import Difference
from edgevit.outputs.output import CLASS_SCORES, Outputs
from edgevit.progress import QUIET, Progress


@dataclass(frozen=True)
class Pruned:
    """A smaller model, what was removed in order, and how close it is on the held-out calibration images.

    `dropped` is the same removal without any refit, `refitted` with it; both against the dense model.
    """

    module: nn.Module
    removed: tuple[Removal, ...]
    heads: tuple[int, ...]
    dropped: Difference
    refitted: Difference
    fits: tuple[LayerFit, ...]

    @property
    def what(self) -> str:
        """One line for the report."""
        total = sum(self.heads) + len(self.removed)
        return (
            f"{len(self.removed)} of {total} heads removed; on {self.refitted.n} held-out calibration "
            f"images KL {self.dropped.kl:.3f} dropped, {self.refitted.kl:.3f} refitted, "
            f"agreement {100 * self.refitted.agreement:.1f} %"
        )


def prune_heads(
    model: nn.Module,
    amount: int | float,
    inputs: torch.Tensor,
    *,
    order: Callable[[int], Sequence[Removal]] | None = None,
    seed: int = 0,
    outputs: Outputs = CLASS_SCORES,
    progress: Progress = QUIET,
) -> Pruned:
    """Remove `amount` heads (a count, or a fraction of all) from a copy of a canonical ViT and refit the rest.

    `inputs` [n, C, H, W] are normalised calibration images without labels; a quarter of them is held out to
    choose heads and shrinkage. Heads go one at a time: the next is the one with which the outputs, after the
    block's projection is refitted by least squares, stay closest to the dense model's; unless `order` tells
    which go first, as chosen on the same model at another size. Then every projection
    and second MLP layer is refitted, block after block, to the dense model's tokens. Head size is unchanged;
    `block.attn.num_heads` and `attn_dim` differ between blocks. Raises InputError for an amount that can't be
    removed (the last head of a block stays) or a part that isn't understood.
    """
    vit = require_prunable(model, "head pruning")
    count = count_of(vit, amount)
    split = split_images(inputs, seed=seed)
    with torch.no_grad():
        expected = outputs_of(vit, split.check)
    if count == 0:
        same = outputs.difference(expected, expected)
        return Pruned(copy.deepcopy(vit), (), heads_of(vit), same, same, ())
    sensitivity = estimate_sensitivity(vit, split.fit, seed=seed, outputs=outputs)
    removed = (
        choose_heads(vit, count, split, sensitivity, outputs=outputs, progress=progress)
        if order is None
        else order(count)
    )
    return remove_and_refit(vit, removed, split, sensitivity, outputs=outputs, progress=progress)


def remove_and_refit(
    vit: Any,
    removed: Sequence[Removal],
    split: Split,
    sensitivity: TokenSensitivity,
    *,
    outputs: Outputs = CLASS_SCORES,
    progress: Progress = QUIET,
) -> Pruned:
    """Remove the given heads from a copy of the dense model and refit it to the dense model."""
    student = frozen_copy(vit)
    for index, block in enumerate(student.blocks):
        drop_heads(block.attn, [removal.head for removal in removed if removal.block == index])
    with torch.no_grad():
        expected = outputs_of(vit, split.check)
        dropped = outputs.difference(outputs_of(student, split.check), expected)
        fits = refit(student, vit, split, sensitivity, progress=progress)
        refitted = outputs.difference(outputs_of(student, split.check), expected)
    student.requires_grad_(True)
    return Pruned(student, tuple(removed), heads_of(student), dropped, refitted, tuple(fits))


def spare_heads(vit: Any) -> int:
    """How many heads can go: each block keeps one."""
    return sum(heads_of(vit)) - len(vit.blocks)


def wanted_of(vit: Any, amount: int | float) -> int:
    """How many heads an amount is: a count, or a share of all."""
    return amount if isinstance(amount, int) else round(amount * sum(heads_of(vit)))


def count_of(vit: Any, amount: int | float) -> int:
    """How many heads to remove. Raises InputError for more than there are to spare."""
    total, spare, whole = sum(heads_of(vit)), spare_heads(vit), wanted_of(vit, amount)
    if isinstance(amount, float) and not 0 <= amount < 1:
        raise InputError(f"cannot remove {amount} of the heads", "a fraction is between 0 and 1", "Use 0.15")
    if whole < 0 or whole > spare:
        raise InputError(
            f"cannot remove {whole} heads",
            f"the model has {total} and each of its {len(vit.blocks)} blocks keeps one",
            f"Use a number from 0 to {spare}",
        )
    return whole
