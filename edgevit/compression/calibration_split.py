"""Calibration images for a fit, and some held out of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from edgevit.errors import InputError

CHECK_SHARE = 0.25
MIN_IMAGES = 4


@dataclass(frozen=True)
class Split:
    """Images to fit on and images held out of the fit, normalised float32 [n, C, H, W], never validation."""

    fit: torch.Tensor
    check: torch.Tensor


def split_images(inputs: torch.Tensor, *, seed: int = 0) -> Split:
    """Hold a quarter of the images out. Raises InputError for fewer than 4 images."""
    count = len(inputs)
    if count < MIN_IMAGES:
        raise InputError(
            "cannot fit on so few images", f"{count} given, {MIN_IMAGES} needed", "Give 64 or more"
        )
    fit, check = hold_out(count, seed=seed)
    return Split(inputs[fit], inputs[check])


def hold_out(count: int, *, seed: int, most: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices to fit on, and a quarter of all (`most` at most) held out: the same for every fit with a seed.

    What a refit has not seen, a later recovery on the same images judges by.
    """
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    held_out = max(1, round(count * CHECK_SHARE))
    held_out = held_out if most is None else min(most, held_out)
    return order[held_out:], order[:held_out]
