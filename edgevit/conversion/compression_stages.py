"""The lossy steps but recovery: from a model and calibration images to a smaller model and its story."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from edgevit.compression.blocks import outputs_of, require_prunable
from edgevit.compression.budget import most_within
from edgevit.compression.calibration_split import split_images
from edgevit.compression.fitting import estimate_sensitivity
from edgevit.compression.head_choice import Removal
from edgevit.compression.heads import Pruned, count_of, prune_heads, remove_and_refit, spare_heads
from edgevit.compression.magnitude import drop_lightest_heads, drop_lightest_neurons
from edgevit.compression.neurons import Thinned, neurons_of, neurons_to_remove, prune_mlp
from edgevit.errors import InputError
from edgevit.images.preprocessing import Preprocessing
from edgevit.metrics.acceptance import Acceptance
from edgevit.models import LoadedModel
from edgevit.progress import Progress
from edgevit.request.compression import AUTO, Amount
from edgevit.request.job import Job
from edgevit.run.step import Step

NO_IMAGES = "no calibration images: what goes was chosen by weight and nothing refitted; for its cost only"
# Shares of the neurons that `--prune-mlp auto` tries.
SHARES = tuple(round(0.05 * step, 2) for step in range(1, 13))
# Stop removing heads at this KL divergence per allowed point: the final refit recovers half of it or a little more.
NATS_PER_POINT = 0.1


@dataclass(frozen=True)
class Work:
    """What a lossy step starts from: the original and the model so far, and where its files go."""

    original: LoadedModel
    start: LoadedModel
    folder: Path
    progress: Progress
    job: Job

    def inputs(self, pixels: Step) -> torch.Tensor:
        """Calibration images as the model so far takes them, [n, C, H, W]."""
        images = np.load(pixels.path("pixels.npy"), mmap_mode="r")
        return torch.from_numpy(self.start.preprocessing.normalise(np.asarray(images)))


class HeadsInOrder(Protocol):
    """Tells which heads of the model at its own size go first: so many, or until the divergence is past a limit."""

    def __call__(self, count: int, most_kl: float = math.inf) -> Sequence[Removal]: ...


@dataclass(frozen=True)
class Made:
    """A smaller model: a label for tables, one line on how it came about, notes for the user."""

    module: nn.Module
    preprocessing: Preprocessing
    label: str
    what: str
    notes: tuple[str, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)


def remove_heads(
    work: Work, wanted: Amount, calibration: Step | None, acceptance: Acceptance, *, order: HeadsInOrder
) -> Made:
    """Remove attention heads, those first that `order` tells, and refit the rest."""
    vit, preprocessing = work.start.module, work.start.preprocessing
    require_prunable(vit, "head pruning")
    work.progress.stage("remove attention heads")
    if calibration is None:
        count = count_of(vit, number(wanted, "--prune-heads"))
        label = f"{count} heads gone"
        return Made(drop_lightest_heads(vit, count), preprocessing, label, NO_IMAGES)
    inputs = work.inputs(calibration)
    if wanted == AUTO:
        return most_heads(work, inputs, acceptance, order)
    amount, seed = number(wanted, "--prune-heads"), work.job.seed
    pruned = prune_heads(
        vit,
        amount,
        inputs,
        order=order,
        seed=seed,
        outputs=work.original.outputs,
        progress=work.progress,
    )
    return made_of_heads(pruned, preprocessing)


def made_of_heads(pruned: Pruned, preprocessing: Preprocessing, *notes: str) -> Made:
    """The record of a removal of heads."""
    details = {
        "removed": [asdict(removal) for removal in pruned.removed],
        "heads": list(pruned.heads),
        "held_out": {"dropped": asdict(pruned.dropped), "refitted": asdict(pruned.refitted)},
    }
    label = f"{len(pruned.removed)} heads gone"
    return Made(pruned.module, preprocessing, label, pruned.what, notes, details)


def most_heads(work: Work, inputs: torch.Tensor, acceptance: Acceptance, in_order: HeadsInOrder) -> Made:
    """Remove as many heads as the predicted drop allows."""
    vit = require_prunable(work.start.module, "head pruning")
    outputs = work.original.outputs
    split = split_images(inputs, seed=work.job.seed)
    sensitivity = estimate_sensitivity(vit, split.fit, seed=work.job.seed, outputs=outputs)
    with torch.no_grad():
        expected = outputs_of(vit, split.check)
    order = in_order(spare_heads(vit), NATS_PER_POINT * acceptance.max_drop)

    def attempt(count: int) -> tuple[Pruned, float]:
        pruned = remove_and_refit(
            vit, order[:count], split, sensitivity, outputs=outputs, progress=work.progress
        )
        with torch.no_grad():
            return pruned, outputs.expected_drop(outputs_of(pruned.module, split.check), expected)

    _, best, tried = most_within(range(1, len(order) + 1), attempt, acceptance)
    why = explain(tried, acceptance, "heads", len(split.check))
    if best is None:
        return Made(vit, work.start.preprocessing, "no heads gone", why, (why,))
    return made_of_heads(best, work.start.preprocessing, why)


def remove_neurons(
    work: Work, wanted: Amount, calibration: Step | None, acceptance: Acceptance, *, alignment: int
) -> Made:
    """Remove MLP neurons in multiples of `alignment` and refit the rest."""
    vit, preprocessing = work.start.module, work.start.preprocessing
    total = sum(neurons_of(require_prunable(vit, "MLP pruning")))
    work.progress.stage("remove MLP neurons")
    if calibration is None:
        count = neurons_to_remove(vit, number(wanted, "--prune-mlp"), alignment)
        thinner = drop_lightest_neurons(vit, count, alignment)
        return Made(thinner, preprocessing, neurons_label(total - sum(neurons_of(thinner))), NO_IMAGES)
    inputs = work.inputs(calibration)
    if wanted == AUTO:
        return most_neurons(work, inputs, acceptance, alignment)
    amount, seed = number(wanted, "--prune-mlp"), work.job.seed
    thinned = prune_mlp(
        vit,
        amount,
        inputs,
        alignment=alignment,
        seed=seed,
        outputs=work.original.outputs,
        progress=work.progress,
    )
    return made_of_neurons(
        thinned, preprocessing, f"neurons go {alignment} at a time, the targets' alignment"
    )


def made_of_neurons(thinned: Thinned, preprocessing: Preprocessing, *notes: str) -> Made:
    """The record of a removal of neurons."""
    details = {
        "neurons": list(thinned.neurons),
        "held_out": {"dropped": asdict(thinned.dropped), "refitted": asdict(thinned.refitted)},
    }
    label = neurons_label(thinned.removed)
    return Made(thinned.module, preprocessing, label, thinned.what, notes, details)


def neurons_label(removed: int) -> str:
    """What a table calls the step."""
    return f"{removed} neurons gone"


def most_neurons(work: Work, inputs: torch.Tensor, acceptance: Acceptance, alignment: int) -> Made:
    """Remove as large a share of the neurons as the predicted drop allows."""
    vit, seed, outputs = work.start.module, work.job.seed, work.original.outputs
    check = split_images(inputs, seed=seed).check
    with torch.no_grad():
        expected = outputs_of(vit, check)

    def attempt(share: float) -> tuple[Thinned, float]:
        thinned = prune_mlp(
            vit,
            share,
            inputs,
            alignment=alignment,
            seed=seed,
            outputs=outputs,
            progress=work.progress,
        )
        with torch.no_grad():
            return thinned, outputs.expected_drop(outputs_of(thinned.module, check), expected)

    _, best, tried = most_within(SHARES, attempt, acceptance)
    why = explain(tried, acceptance, "of the neurons", len(check))
    if best is None:
        return Made(vit, work.start.preprocessing, "no neurons gone", why, (why,))
    return made_of_neurons(best, work.start.preprocessing, why)


def explain(tried: Sequence[tuple[object, float]], acceptance: Acceptance, what: str, images: int) -> str:
    """What an automatic choice saw and why it chose as it did."""
    in_order = sorted(tried, key=lambda pair: pair[0] if isinstance(pair[0], int | float) else 0.0)
    seen = ", ".join(f"{option} {what}: {drop:.2f}" for option, drop in in_order)
    found = "the most" if any(acceptance.allows(drop) for _, drop in tried) else "nothing was"
    limit = acceptance.max_drop
    return (
        f"{found} within {limit:.3g} points of predicted drop on {images} held-out calibration images "
        f"(tried {seen or 'nothing'})"
    )


def number(wanted: Amount, option: str) -> int | float:
    """An amount that is a number. Raises InputError for "auto" where there is nothing to choose by."""
    if isinstance(wanted, str):
        raise InputError(
            f"cannot choose {option} auto", "there are no calibration images to choose by", "Give a number"
        )
    return wanted
