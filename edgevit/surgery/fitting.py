"""Refit a changed ViT to the dense one, linear layer after linear layer, by least squares."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from edgevit.progress import QUIET, Progress
from edgevit.surgery.calibration_views import Split
from edgevit.surgery.compensation import Moments, correct, solve
from edgevit.surgery.steps import (
    BATCH,
    Function,
    after_attention,
    after_mlp,
    head,
    head_outputs,
    hidden,
    in_batches,
    stem,
    unscaled,
)

LAYERS = ("proj", "fc2")
# Patch tokens of an image that enter a fit.
PATCHES = 64
# How far the class token may outweigh all patch tokens together in a fit.
LARGEST = 10.0


@dataclass(frozen=True)
class Felt:
    """How much the logits feel a unit error of each token, after attention and after the MLP of each block.

    The Fisher information's trace, E|∂ log p_y / ∂x|² with y drawn from the model's own prediction; [tokens].
    """

    attention: tuple[torch.Tensor, ...]
    mlp: tuple[torch.Tensor, ...]


def feel(model: nn.Module, images: torch.Tensor, *, seed: int = 0) -> Felt:
    """Estimate what the logits feel, without labels. Patch tokens share their mean: single ones are noise."""
    vit: Any = model
    generator = torch.Generator().manual_seed(seed)
    sums: list[torch.Tensor] = []
    for start in range(0, len(images), BATCH):
        with torch.enable_grad():
            tokens = stem(vit, images[start : start + BATCH]).detach().requires_grad_(True)
            points: list[torch.Tensor] = []
            for block in vit.blocks:
                points.append(after_attention(block, points[-1] if points else tokens))
                points.append(after_mlp(block, points[-1]))
            logits = head(vit, points[-1] if points else tokens)
            drawn = torch.multinomial(logits.detach().softmax(-1), 1, generator=generator)[:, 0]
            loss = functional.cross_entropy(logits, drawn, reduction="sum")
            gradients = torch.autograd.grad(loss, points)
        new = [gradient.square().sum(-1).double().sum(0) for gradient in gradients]
        sums = [old + part for old, part in zip(sums, new, strict=True)] if sums else new
    prefix = vit.num_prefix_tokens
    pooled = []
    for total in sums:
        mean = (total / len(images)).float()
        pooled.append(torch.cat([mean[:prefix], mean[prefix:].mean().expand(len(mean) - prefix)]))
    return Felt(tuple(pooled[0::2]), tuple(pooled[1::2]))


def moderated(weights: torch.Tensor, prefix: int, largest: float) -> torch.Tensor:
    """Weights for a fit: sum 1, with no prefix token above `largest` times all patch tokens together.

    A class token that the logits feel alone would leave as few samples as there are images.
    """
    patches = weights[prefix:].sum().clamp_min(1e-12 * weights.sum().clamp_min(1e-30))
    capped = torch.cat([(weights[:prefix] / patches).clamp_max(largest), weights[prefix:] / patches])
    if weights[prefix:].sum() == 0:
        capped[prefix:] = 1.0 / max(1, len(weights) - prefix)
    return capped / capped.sum()


@dataclass
class Streams:
    """Token states of student and teacher, of fitted then held-out images, advanced block by block."""

    student: torch.Tensor
    teacher: torch.Tensor
    fitted: int
    prefix: int
    same_grid: bool

    def lacking(self, part: slice) -> torch.Tensor:
        """What the student's tokens lack to be the teacher's, [n, tokens, dim].

        On different grids patch tokens have no counterpart, and resampled ones would be blurred: there, each
        lacks what the mean over the image's patches does.
        """
        ours, theirs = self.student[part], self.teacher[part]
        if self.same_grid:
            return theirs - ours
        shift = theirs[:, self.prefix :].mean(1, keepdim=True) - ours[:, self.prefix :].mean(1, keepdim=True)
        leading = theirs[:, : self.prefix] - ours[:, : self.prefix]
        return torch.cat([leading, shift.expand(-1, ours.shape[1] - self.prefix, -1)], dim=1)

    def slices(self) -> Iterator[tuple[slice, bool]]:
        """Batches, and whether they are fitted on."""
        for start, end, fitted in ((0, self.fitted, True), (self.fitted, len(self.student), False)):
            for first in range(start, end, BATCH):
                yield slice(first, min(first + BATCH, end)), fitted

    def sample(self, part: slice) -> torch.Tensor:
        """Indices of the prefix tokens and of some patches: neighbours say much the same."""
        patches = self.student.shape[1] - self.prefix
        generator = torch.Generator().manual_seed(part.start)
        chosen = torch.randperm(patches, generator=generator)[:PATCHES] + self.prefix
        return torch.cat([torch.arange(self.prefix), chosen.sort().values])


def start_streams(student: Any, teacher: Any, split: Split) -> Streams:
    """States entering the first block."""
    ours = torch.cat([in_batches(lambda b: stem(student, b), part) for part in (split.fit, split.check)])
    theirs = [split.teacher_fit, split.teacher_check]
    reference = torch.cat([in_batches(lambda b: stem(teacher, b), part) for part in theirs])
    return Streams(
        ours,
        reference,
        len(split.fit),
        student.num_prefix_tokens,
        tuple(teacher.patch_embed.grid_size) == tuple(student.patch_embed.grid_size),
    )


@dataclass(frozen=True)
class LayerFit:
    """Mean squared residual of a layer's output on held-out images, before and after its correction."""

    layer: str
    before: float
    after: float
    shrinkage: float | None


@torch.no_grad()
def refit(
    student: Any,
    teacher: Any,
    split: Split,
    felt: Felt,
    *,
    layers: Sequence[str] = LAYERS,
    largest: float = LARGEST,
    progress: Progress = QUIET,
) -> list[LayerFit]:
    """Correct the student's layers in place, block after block, so that its tokens follow the teacher's.

    Each layer reads what the corrected blocks before it give, and aims at the dense model's tokens.
    """
    streams, fits = start_streams(student, teacher, split), []
    for index, (block, dense) in enumerate(zip(student.blocks, teacher.blocks, strict=True)):
        streams.teacher = in_batches(lambda t, d=dense: after_attention(d, t), streams.teacher)
        outputs = in_batches(lambda t, b=block: head_outputs(b.attn, b.norm1(t)), streams.student)
        if "proj" in layers:
            weights = moderated(felt.attention[index], streams.prefix, largest)
            moments = measure_projection(streams, outputs, block, weights)
            fits.append(fit_layer(f"blocks.{index}.attn.proj", block.attn.proj, *moments))
        streams.student = in_batches(
            lambda t, o, b=block: t + b.ls1(b.attn.proj(o)), streams.student, outputs
        )
        streams.teacher = in_batches(lambda t, d=dense: after_mlp(d, t), streams.teacher)
        if "fc2" in layers:
            weights = moderated(felt.mlp[index], streams.prefix, largest)
            moments = measure_mlp(streams, block, weights)
            fits.append(fit_layer(f"blocks.{index}.mlp.fc2", block.mlp.fc2, *moments))
        streams.student = in_batches(lambda t, b=block: after_mlp(b, t), streams.student)
        progress.advance(index + 1, len(student.blocks), "least squares")
    return fits


def measure_projection(
    streams: Streams, outputs: torch.Tensor, block: Any, weights: torch.Tensor
) -> tuple[Moments, Moments]:
    """Moments (fitted, held out) of head outputs and of what the projection lacks to reach the teacher."""
    return measure(
        streams, block.attn.proj, block.ls1, weights, lambda part, tokens: outputs[part][:, tokens]
    )


def measure_mlp(streams: Streams, block: Any, weights: torch.Tensor) -> tuple[Moments, Moments]:
    """Moments (fitted, held out) of the MLP's neurons and of what fc2 lacks to reach the teacher."""

    def neurons(part: slice, tokens: torch.Tensor) -> torch.Tensor:
        return hidden(block.mlp, block.norm2(streams.student[part][:, tokens]))

    return measure(streams, block.mlp.fc2, block.ls2, weights, neurons)


def measure(
    streams: Streams, linear: nn.Linear, scale: nn.Module, weights: torch.Tensor, features: Function
) -> tuple[Moments, Moments]:
    """Moments of `features(part, tokens)`, a layer's input, and of what its output lacks."""
    fit = Moments(linear.in_features, linear.out_features)
    check = Moments(linear.in_features, linear.out_features)
    for part, fitted in streams.slices():
        tokens = streams.sample(part)
        x = features(part, tokens)
        lacking = unscaled(streams.lacking(part)[:, tokens], scale) - linear(x)
        counted = weights[tokens]
        counted[streams.prefix :] *= (len(weights) - streams.prefix) / max(1, len(tokens) - streams.prefix)
        (fit if fitted else check).add(x, lacking, counted)
    return fit, check


def fit_layer(name: str, linear: nn.Linear, fit: Moments, check: Moments) -> LayerFit:
    """Correct one layer in place and say what it gained."""
    found = solve(fit.centred(), check.centred())
    correct(linear, found)
    return LayerFit(name, found.before, found.after, found.shrinkage)
