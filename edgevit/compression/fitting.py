"""Refit a changed ViT to the dense one, linear layer after linear layer, by least squares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from edgevit.compression.blocks import (
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
from edgevit.compression.calibration_split import Split
from edgevit.compression.compensation import Moments, correct, solve
from edgevit.compression.fitting_streams import Streams, start_streams
from edgevit.compression.value_projection import MAX_FEATURES, measure_values, set_values, solve_values
from edgevit.outputs.output import CLASS_SCORES, Outputs
from edgevit.progress import QUIET, Progress

LAYERS = ("values", "proj", "fc2")
# How far the class token may outweigh all patch tokens together in a fit.
LARGEST = 10.0


@dataclass(frozen=True)
class TokenSensitivity:
    """Sensitivity of the outputs to a unit error of each token, after attention and after the MLP of each block.

    The Fisher information's trace, E|∂ log p_y / ∂x|² with y drawn from the model's own prediction; [tokens].
    """

    attention: tuple[torch.Tensor, ...]
    mlp: tuple[torch.Tensor, ...]


def estimate_sensitivity(
    model: nn.Module, images: torch.Tensor, *, seed: int = 0, outputs: Outputs = CLASS_SCORES
) -> TokenSensitivity:
    """Trace of the Fisher information of its `outputs` per token, without labels. Patch tokens share their mean."""
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
            score = outputs.sampled(head(vit, points[-1] if points else tokens), generator)
            gradients = torch.autograd.grad(score, points)
        new = [gradient.square().sum(-1).double().sum(0) for gradient in gradients]
        sums = [old + part for old, part in zip(sums, new, strict=True)] if sums else new
    prefix = vit.num_prefix_tokens
    pooled = []
    for total in sums:
        mean = (total / len(images)).float()
        pooled.append(torch.cat([mean[:prefix], mean[prefix:].mean().expand(len(mean) - prefix)]))
    return TokenSensitivity(tuple(pooled[0::2]), tuple(pooled[1::2]))


def capped_weights(weights: torch.Tensor, prefix: int) -> torch.Tensor:
    """Weights for a fit: sum 1, with no prefix token above LARGEST times all patch tokens together.

    A class token that alone moves the outputs would leave as few samples as there are images.
    """
    patches = weights[prefix:].sum().clamp_min(1e-12 * weights.sum().clamp_min(1e-30))
    capped = torch.cat([(weights[:prefix] / patches).clamp_max(LARGEST), weights[prefix:] / patches])
    if weights[prefix:].sum() == 0:
        capped[prefix:] = 1.0 / max(1, len(weights) - prefix)
    return capped / capped.sum()


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
    sensitivity: TokenSensitivity,
    *,
    layers: Sequence[str] = LAYERS,
    progress: Progress = QUIET,
) -> list[LayerFit]:
    """Correct the student's layers in place, block after block, so that its tokens follow the teacher's.

    Each layer reads what the corrected blocks before it give, and aims at the dense model's tokens.
    """
    streams, fits = start_streams(student, teacher, split), []
    for index, (block, dense) in enumerate(zip(student.blocks, teacher.blocks, strict=True)):
        streams.teacher = in_batches(lambda t, d=dense: after_attention(d, t), streams.teacher)
        if "values" in layers and values_fit(block.attn):
            weights = capped_weights(sensitivity.attention[index], streams.prefix)
            fits.append(fit_values(f"blocks.{index}.attn", block, streams, weights))
        outputs = in_batches(lambda t, b=block: head_outputs(b.attn, b.norm1(t)), streams.student)
        if "proj" in layers:
            weights = capped_weights(sensitivity.attention[index], streams.prefix)
            moments = measure_projection(streams, outputs, block, weights)
            fits.append(fit_layer(f"blocks.{index}.attn.proj", block.attn.proj, *moments))
        streams.student = in_batches(
            lambda t, o, b=block: t + b.ls1(b.attn.proj(o)), streams.student, outputs
        )
        streams.teacher = in_batches(lambda t, d=dense: after_mlp(d, t), streams.teacher)
        if "fc2" in layers:
            weights = capped_weights(sensitivity.mlp[index], streams.prefix)
            moments = measure_mlp(streams, block, weights)
            fits.append(fit_layer(f"blocks.{index}.mlp.fc2", block.mlp.fc2, *moments))
        streams.student = in_batches(lambda t, b=block: after_mlp(b, t), streams.student)
        progress.advance(index + 1, len(student.blocks), "least squares")
    return fits


def values_fit(attention: Any) -> bool:
    """Whether moments of all heads' inputs are small enough to hold."""
    return bool(attention.num_heads * attention.qkv.in_features <= MAX_FEATURES)


def fit_values(name: str, block: Any, streams: Streams, weights: torch.Tensor) -> LayerFit:
    """Refit a block's values and projection in place and say what it gained."""
    fit, check = measure_values(streams, block, weights)
    found = solve_values(block.attn, fit.centred(), check.centred())
    set_values(block.attn, found)
    return LayerFit(name, found.before, found.after, found.ridge)


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
        (fit if fitted else check).add(x, lacking, streams.weights_of_sample(weights, tokens))
    return fit, check


def fit_layer(name: str, linear: nn.Linear, fit: Moments, check: Moments) -> LayerFit:
    """Correct one layer in place and say what it gained."""
    found = solve(fit.centred(), check.centred())
    correct(linear, found)
    return LayerFit(name, found.before, found.after, found.shrinkage)
