"""Calibration images for a fit, and some held out of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from edgevit.errors import InputError

CHECK_SHARE = 0.25
FEWEST_IMAGES = 4


@dataclass(frozen=True)
class Split:
    """Images to fit on and images held out of the fit, normalised float32 [n, C, H, W], never validation."""

    fit: torch.Tensor
    check: torch.Tensor


def split_images(inputs: torch.Tensor, *, seed: int = 0) -> Split:
    """Hold a quarter of the images out. Raises InputError for fewer than 4 images."""
    count = len(inputs)
    if count < FEWEST_IMAGES:
        raise InputError(
            "cannot fit on so few images", f"{count} given, {FEWEST_IMAGES} needed", "Give 64 or more"
        )
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    held_out = max(1, round(count * CHECK_SHARE))
    return Split(inputs[order[held_out:]], inputs[order[:held_out]])
