"""Least squares for a model at another input size, with the full-resolution model as the target. Lossy."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from edgevit.progress import QUIET, Progress
from edgevit.surgery.calibration_views import split_images
from edgevit.surgery.fitting import LayerFit, feel, refit
from edgevit.surgery.head_choice import frozen_copy
from edgevit.surgery.steps import Closeness, closeness, logits_of, require_prunable


@dataclass(frozen=True)
class Refitted:
    """The refitted model, or the one given where held-out images found it no closer to the full-size one."""

    module: nn.Module
    improved: bool
    before: Closeness
    after: Closeness
    fits: tuple[LayerFit, ...]

    @property
    def what(self) -> str:
        """One line for the report."""
        if not self.improved:
            return f"a refit was no better on {self.before.images} held-out calibration images; left out"
        return (
            f"refitted; on {self.after.images} held-out calibration images KL {self.before.kl:.3f} to "
            f"{self.after.kl:.3f}, agreement {100 * self.before.agreement:.1f} to "
            f"{100 * self.after.agreement:.1f} %"
        )


def refit_resolution(
    model: nn.Module,
    full: nn.Module,
    inputs: torch.Tensor,
    full_inputs: torch.Tensor,
    *,
    copies: int = 0,
    seed: int = 0,
    progress: Progress = QUIET,
) -> Refitted:
    """Refit projections and second MLP layers of a copy of `model`, `full` at another size, to `full`'s tokens.

    `inputs` and `full_inputs` are the same unlabelled pictures [n, C, H, W], each normalised and sized for its
    model. Prefix tokens follow the full model's; patch tokens, on another grid, only their image's mean.
    Raises InputError for fewer than 4 images or a part that isn't understood.
    """
    resized = require_prunable(model, "a refit to the full resolution")
    teacher = require_prunable(full, "a refit to the full resolution")
    split = split_images(inputs, full_inputs, copies=copies, seed=seed)
    student = frozen_copy(resized)
    felt = feel(resized, split.fit, seed=seed)
    with torch.no_grad():
        expected = logits_of(teacher, split.teacher_check)
        before = closeness(expected, logits_of(resized, split.check))
        fits = refit(student, frozen_copy(teacher), split, felt, progress=progress)
        after = closeness(expected, logits_of(student, split.check))
    if after.kl >= before.kl:
        return Refitted(model, False, before, before, ())
    student.requires_grad_(True)
    return Refitted(student, True, before, after, tuple(fits))
