"""A float ViT made ready for int8: conditioned, calibrated, explained. The entry point of this package."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from edgevit.errors import InputError
from edgevit.metrics.difference import Difference
from edgevit.outputs.output import CLASS_SCORES, Outputs
from edgevit.progress import QUIET, Progress
from edgevit.quantize.activations import outputs_of, prepared
from edgevit.quantize.calibration import NARROWINGS, Stability, narrowed, ranges_of, stability
from edgevit.quantize.conditioning import (
    Transform,
    condition,
    full_ranges,
    images_of_a_half,
    multiplications_of,
)
from edgevit.quantize.diagnosis import MassiveActivation, explain, massive_activations
from edgevit.quantize.fake_quantization import int8_outputs
from edgevit.quantize.fusion import Fusion
from edgevit.quantize.observers import OBSERVERS, Range
from edgevit.quantize.plan import MATCHED_IMAGES, PrecisionPlan
from edgevit.quantize.statistics import Statistics, collect, extremes, joined_extremes

DIAGNOSED_IMAGES = 64
MEASURED = "measured"
MIN_IMAGES = 8


@dataclass(frozen=True)
class RangeTrial:
    """One way to choose ranges and its errors on held-out images."""

    observer: str
    errors: Difference


@dataclass(frozen=True)
class Int8Model:
    """A conditioned module (float, same outputs), the plan that makes all of it int8, and how it came about."""

    module: Any
    plan: PrecisionPlan
    fusion: Fusion
    statistics: Statistics
    steps: tuple[Transform, ...]
    trials: tuple[RangeTrial, ...]
    stability: Stability
    massive: tuple[MassiveActivation, ...]

    @property
    def explanation(self) -> str | None:
        """What makes the model hard, in a sentence; None where nothing does."""
        return explain(list(self.massive))

    def to_json(self) -> dict[str, Any]:
        """Plain values for the manifest."""
        return {
            "conditioning": [step.to_json() for step in self.steps],
            "ranges": [{"observer": trial.observer, **vars(trial.errors)} for trial in self.trials],
            "stability": vars(self.stability) | {"warning": self.stability.warning},
            "massive": [item.to_json() for item in self.massive],
            "explanation": self.explanation,
        }


def prepare_int8(
    model: nn.Module,
    images: torch.Tensor,
    fusion: Fusion,
    *,
    observer: str = MEASURED,
    seed: int = 0,
    outputs: Outputs = CLASS_SCORES,
    progress: Progress = QUIET,
) -> Int8Model:
    """Condition a canonical ViT and choose ranges, on normalised calibration images [n, channels, H, W].

    `fusion` says where the compiler rounds. `observer` is a name in OBSERVERS, or "measured": the best of a few
    on held-out images; `outputs` say what the model gives, so how errors are told. Call it after the exact
    rewrites, and export the module it gives. Raises InputError for a model that isn't canonical.
    """
    if len(images) < MIN_IMAGES:
        raise InputError(
            "cannot calibrate int8",
            f"{len(images)} calibration images are too few",
            f"Give at least {MIN_IMAGES}, better 64 to 512",
        )
    vit = prepared(model)
    massive = massive_activations(vit, images[:DIAGNOSED_IMAGES])
    vit, steps = condition(vit, images, fusion, seed=seed, outputs=outputs, progress=progress)
    half = images_of_a_half(multiplications_of(vit), len(images))
    statistics = collect(vit, images[:half], seed=seed, outputs=outputs, progress=progress)
    held_out = images[half : 2 * half]
    names = (
        [f"{MEASURED} {share}" for share in NARROWINGS] + ["minmax"] if observer == MEASURED else [observer]
    )
    tried = ranges_by(statistics, names)
    reference = outputs_of(vit, held_out)
    trials = [
        RangeTrial(name, outputs.difference(int8_outputs(vit, held_out, tried[name], fusion), reference))
        for name in names
    ]
    best = min(trials, key=lambda trial: trial.errors.error_score)
    statistics = joined_extremes(statistics, extremes(vit, images[half:]))
    steady = stability(statistics)
    if steady.warning is not None:
        progress.warn(steady.warning)
    plan = PrecisionPlan(
        precision="int8",
        ranges=ranges_by(statistics, [best.observer])[best.observer],
        calibrated_ranges=full_ranges(extremes(vit, images[:MATCHED_IMAGES])),
    )
    return Int8Model(vit, plan, fusion, statistics, tuple(steps), tuple(trials), steady, tuple(massive))


def save_module(module: nn.Module, path: Path) -> None:
    """Write a conditioned module's weights (safetensors)."""
    save_file({name: value.contiguous() for name, value in module.state_dict().items()}, path)


def restored(model: nn.Module, path: Path) -> Any:
    """The conditioned module again, from the model that `prepare_int8` was given and the weights it ended with."""
    vit, weights = prepared(model), load_file(path)
    for name in weights.keys() - vit.state_dict().keys():  # conditioning adds biases where there were none
        owner, _, kind = name.rpartition(".")
        setattr(vit.get_submodule(owner), kind, nn.Parameter(weights[name], requires_grad=False))
    vit.load_state_dict(weights)
    return vit


def ranges_by(statistics: Statistics, names: list[str]) -> dict[str, dict[str, Range]]:
    """Ranges by each observer's name; "measured 0.5" narrows the stream's half the way."""
    least = ranges_of(statistics, "output-error") if any(name not in OBSERVERS for name in names) else {}
    return {
        name: ranges_of(statistics, name)
        if name in OBSERVERS
        else narrowed(statistics, least, float(name.removeprefix(MEASURED)))
        for name in names
    }
