"""From an int8-ready model to the plan that keeps its predictions at the fewest cycles."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from edgevit.metrics.acceptance import Acceptance
from edgevit.metrics.predicted_loss import PredictedLoss
from edgevit.outputs.output import CLASS_SCORES, Outputs
from edgevit.progress import QUIET, Progress
from edgevit.quantize.activations import outputs_of
from edgevit.quantize.calibration import predicted_effect
from edgevit.quantize.candidates import CandidatePlan, candidate_plans
from edgevit.quantize.fake_quantization import int8_outputs, quantizer
from edgevit.quantize.fusion import Fusion
from edgevit.quantize.groups import Costs, Errors, groups_of, shape_of
from edgevit.quantize.plan import PrecisionPlan
from edgevit.quantize.prepare import Int8Model
from edgevit.quantize.search import SearchResult, no_price, nobody_ahead, search
from edgevit.quantize.tensor_names import kind_of, sibling
from edgevit.targets.profiles import Npu

Rows = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

FAKE_IMAGES = 64
EFFECT_IMAGES = 32
# Kinds of tensors measured together, as they err together.
JOINT_KINDS = (
    frozenset({"q", "k", "v", "scores", "softmax", "attention"}),
    frozenset({"patch"}),
    frozenset({"embed", "residual1", "residual2", "norm1", "norm2"}),
    frozenset({"gelu"}),
    frozenset({"proj"}),
    frozenset({"fc1"}),
    frozenset({"fc2"}),
)


@dataclass(frozen=True)
class Judging:
    """How plans are judged: by what is lost on the last `evaluated` calibration images.

    `simulate` realises a plan and returns its outputs, rows [evaluated, values] of what `outputs` say; `priced`
    tells what a simulated plan costs, for the record; `ahead` is told which plans are next, and which may be.
    `labels` [n] are of all calibration images. A search that was stopped goes on from the file `state`; `advice` is
    given where no plan is accepted.
    """

    evaluated: int
    simulate: Callable[[PrecisionPlan], Rows]
    acceptance: Acceptance
    minutes: float
    priced: Callable[[PrecisionPlan], Mapping[str, float]] = no_price
    ahead: Callable[[Sequence[PrecisionPlan]], None] = nobody_ahead
    outputs: Outputs = CLASS_SCORES
    labels: Labels | None = None
    state: Path | None = None
    advice: str = "--precision float"
    progress: Progress = QUIET


@dataclass(frozen=True)
class PlannedPrecision:
    """The plan found and the search that led to it."""

    plan: PrecisionPlan
    found: SearchResult


def find_plan(
    vit: Any,
    plan: PrecisionPlan,
    effects: Mapping[str, float],
    images: torch.Tensor,
    npu: Npu,
    fusion: Fusion,
    judging: Judging,
) -> PlannedPrecision:
    """The cheapest plan that `judging` accepts.

    `vit`, its all-int8 `plan` and the `effects` of its tensors (KL in nats per image) come from `prepare_int8` and
    `measured_effects`. `images` [n, channels, H, W] are the normalised calibration images.
    """
    every = outputs_of(vit, images).numpy()
    images = images[-judging.evaluated :]
    shape = shape_of(vit, npu)
    groups = [each for each in groups_of(shape.blocks) if each.possible(npu.never_sixteen_bit)]
    candidates = candidate_plans(groups, Errors(effects, shape.blocks, fusion), Costs(shape, npu, fusion))
    few = images[:FAKE_IMAGES]
    return judged(
        candidates,
        plan,
        every,
        lambda sixteen_bit: int8_outputs(vit, few, plan.ranges, fusion, sixteen_bit).numpy(),
        judging,
    )


def judged(
    candidates: list[CandidatePlan],
    plan: PrecisionPlan,
    every: Rows,
    int8: Callable[[tuple[str, ...]], Rows],
    judging: Judging,
) -> PlannedPrecision:
    """The cheapest of the candidates that `judging` accepts, in the ranges of `plan`, whose 16-bit tensors all
    have.

    `every` are the float outputs [n, classes] on all calibration images. `int8` gives those of fake quantization
    with some tensors in 16 bits, on up to FAKE_IMAGES images from the first of the last that plans are judged on.
    """
    reference = every[-judging.evaluated :]
    outputs, always = judging.outputs, plan.sixteen_bit
    scale = None if judging.labels is None else outputs.trusted_scale(every, judging.labels)

    def with_always(sixteen_bit: tuple[str, ...]) -> tuple[str, ...]:
        return (*sixteen_bit, *(name for name in always if name not in sixteen_bit))

    def planned(sixteen_bit: tuple[str, ...]) -> PrecisionPlan:
        return replace(plan, sixteen_bit=with_always(sixteen_bit))

    # The float model's margins on every calibration image serve the few that plans are evaluated on.
    def estimate(sixteen_bit: tuple[str, ...]) -> PredictedLoss:
        return outputs.predict_loss(
            int8(with_always(sixteen_bit)), reference[:FAKE_IMAGES], every, scale=scale
        )

    def simulated(sixteen_bit: tuple[str, ...]) -> PredictedLoss:
        found = judging.simulate(planned(sixteen_bit))
        return outputs.predict_loss(found, reference, every, scale=scale)

    found = search(
        candidates,
        estimate=estimate,
        simulate=simulated,
        priced=lambda sixteen_bit: judging.priced(planned(sixteen_bit)),
        ahead=lambda several: judging.ahead([planned(sixteen_bit) for sixteen_bit in several]),
        acceptance=judging.acceptance,
        minutes=judging.minutes,
        state=judging.state,
        key=fingerprint(plan, reference, scale),
        advice=judging.advice,
        progress=judging.progress,
    )
    return PlannedPrecision(planned(found.candidate.sixteen_bit), found)


def measured_effects(
    model: Int8Model, images: torch.Tensor, outputs: Outputs = CLASS_SCORES
) -> dict[str, float]:
    """Estimated effects of rounding each tensor, scaled so that tensors of a part together give what was measured.

    KL in nats per image, by tensor. `images` are normalised; EFFECT_IMAGES of them are used.

    Estimates take errors of values for independent; those of attention weights, for one, are not.
    """
    effects = predicted_effect(model.statistics, model.plan.ranges)
    images = images[-min(EFFECT_IMAGES, max(1, len(images) // 2)) :]
    float_outputs = outputs_of(model.module, images)
    for kinds in JOINT_KINDS:
        names = [name for name in effects if kind_of(name) in kinds]
        only = {name: model.plan.ranges[name] for name in names}
        # A fused output is rounded on its own only where the next operation is in 16 bits.
        into = model.fusion.into
        apart = [sibling(name, into[kind_of(name)]) for name in names if kind_of(name) in into]
        rounded = outputs_of(model.module, images, quantizer(only, model.fusion, apart))
        found = outputs.difference(rounded, float_outputs).kl
        estimate = sum(effects[name] for name in names)
        effects |= {name: effects[name] * found / max(estimate, 1e-12) for name in names}
    return effects


def fingerprint(plan: PrecisionPlan, reference: Rows, scale: float | None) -> str:
    """Changes with the model, its ranges, images or labels: measurements of another search are not reused."""
    digest = hashlib.sha256(json.dumps([plan.to_json(), scale], sort_keys=True).encode())
    digest.update(np.round(reference, 3).tobytes())
    return digest.hexdigest()[:16]
