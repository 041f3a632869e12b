"""MLP neurons removed in whole blocks of the target's alignment, by the heads' least squares. Lossy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from edgevit.compression.blocks import after_attention, after_mlp, in_batches, outputs_of, require_prunable
from edgevit.compression.calibration_split import Split, split_images
from edgevit.compression.compensation import Centred
from edgevit.compression.fitting import (
    LayerFit,
    TokenSensitivity,
    capped_weights,
    estimate_sensitivity,
    measure_mlp,
    refit,
)
from edgevit.compression.fitting_streams import start_streams
from edgevit.compression.head_choice import frozen_copy, linear_of
from edgevit.errors import InputError
from edgevit.metrics.difference import Difference
from edgevit.outputs.output import CLASS_SCORES, Outputs
from edgevit.progress import QUIET, Progress

RIDGE = 1e-3


@dataclass(frozen=True)
class Thinned:
    """A model with fewer MLP neurons, how many each block keeps, and how close it is on held-out images."""

    module: nn.Module
    neurons: tuple[int, ...]
    removed: int
    dropped: Difference
    refitted: Difference
    fits: tuple[LayerFit, ...]

    @property
    def what(self) -> str:
        """One line for the report."""
        total = sum(self.neurons) + self.removed
        return (
            f"{self.removed} of {total} MLP neurons removed; on {self.refitted.n} held-out calibration "
            f"images KL {self.dropped.kl:.3f} dropped, {self.refitted.kl:.3f} refitted, "
            f"agreement {100 * self.refitted.agreement:.1f} %"
        )


def prune_mlp(
    model: nn.Module,
    amount: int | float,
    inputs: torch.Tensor,
    *,
    alignment: int = 32,
    seed: int = 0,
    outputs: Outputs = CLASS_SCORES,
    progress: Progress = QUIET,
) -> Thinned:
    """Remove up to `amount` MLP neurons (a count, or a fraction of all) from a copy, `alignment` at a time.

    In each block neurons leave in the order of what their loss leaves of fc2's output after the others are
    refitted (optimal brain surgeon); how many leave each block is decided by that error times the outputs'
    sensitivity to it, the cheapest `alignment` first. `inputs` as in `prune_heads`. Raises InputError for an
    amount that can't be removed (the last `alignment` neurons of a block stay) or a part that isn't understood.
    """
    vit = require_prunable(model, "MLP pruning")
    wanted = neurons_to_remove(vit, amount, alignment)
    for index, block in enumerate(vit.blocks):
        if not isinstance(block.mlp.norm, nn.Identity):
            raise InputError(
                "cannot apply MLP pruning",
                f"blocks.{index}.mlp.norm spans all neurons",
                "Leave --prune-mlp out",
            )
    split = split_images(inputs, seed=seed)
    sensitivity = estimate_sensitivity(vit, split.fit, seed=seed, outputs=outputs)
    student = frozen_copy(vit)
    with torch.no_grad():
        expected = outputs_of(vit, split.check)
        kept = choose_neurons(vit, wanted, alignment, split, sensitivity)
        for block, neurons in zip(student.blocks, kept, strict=True):
            keep_neurons(block.mlp, neurons)
        dropped = outputs.difference(outputs_of(student, split.check), expected)
        removed = sum(neurons_of(vit)) - sum(len(neurons) for neurons in kept)
        fits = refit(student, vit, split, sensitivity, progress=progress) if removed else []
        refitted = outputs.difference(outputs_of(student, split.check), expected)
    student.requires_grad_(True)
    return Thinned(student, tuple(len(n) for n in kept), removed, dropped, refitted, tuple(fits))


def keep_neurons(mlp: Any, neurons: torch.Tensor) -> None:
    """Remove all other neurons from a timm Mlp in place."""
    if len(neurons) == mlp.fc1.out_features:
        return
    fc1, fc2 = mlp.fc1, mlp.fc2
    mlp.fc1 = linear_of(fc1.weight[neurons], None if fc1.bias is None else fc1.bias[neurons])
    mlp.fc2 = linear_of(fc2.weight[:, neurons], fc2.bias)


def neurons_of(vit: Any) -> tuple[int, ...]:
    """MLP neurons of each block."""
    return tuple(block.mlp.fc1.out_features for block in vit.blocks)


def neurons_to_remove(vit: Any, amount: int | float, alignment: int) -> int:
    """How many neurons `amount` is, at most. Raises InputError for more than there are to spare."""
    total = sum(neurons_of(vit))
    if isinstance(amount, float) and not 0 <= amount < 1:
        raise InputError(
            f"cannot remove {amount} of the MLP neurons", "a fraction is between 0 and 1", "Use 0.1"
        )
    whole = amount if isinstance(amount, int) else int(amount * total + 1e-6)
    spare = sum(max(0, neurons // alignment - 1) * alignment for neurons in neurons_of(vit))
    if not 0 <= whole <= spare:
        raise InputError(
            f"cannot remove {whole} MLP neurons",
            f"the model has {total} and each of its {len(vit.blocks)} blocks keeps {alignment} or more",
            f"Use a number from 0 to {spare}",
        )
    return whole


def choose_neurons(
    vit: Any, wanted: int, alignment: int, split: Split, sensitivity: TokenSensitivity
) -> list[torch.Tensor]:
    """Sorted indices of the neurons each block keeps."""
    fraction = wanted / sum(neurons_of(vit))
    orders, steps = [], []
    for index, moments in enumerate(mlp_moments(vit, split, sensitivity)):
        most = min(1.0, 2 * fraction) * len(moments.xx) + alignment
        order, costs = removal_order(moments, vit.blocks[index].mlp.fc2.weight, int(most))
        orders.append(order)
        # The last `alignment` neurons stay: a block without an MLP is another architecture.
        groups = min(len(order) // alignment - 1, len(costs) // alignment)
        weight = float(sensitivity.mlp[index].sum())
        dearest = 0.0
        for group in range(groups):
            added = float(costs[group * alignment : (group + 1) * alignment].sum())
            share = dearest = max(dearest, weight * added)
            steps.append((share, index, group))
    gone = [0] * len(orders)
    # Shares never fall within a block, so the cheapest steps of a block are its first ones.
    for _, index, _ in sorted(steps)[: wanted // alignment]:
        gone[index] += alignment
    return [order[count:].sort().values for order, count in zip(orders, gone, strict=True)]


def mlp_moments(vit: Any, split: Split, sensitivity: TokenSensitivity) -> list[Centred]:
    """Moments of each block's hidden neurons in the dense model."""
    streams, found = start_streams(vit, vit, split), []
    for index, block in enumerate(vit.blocks):
        streams.student = in_batches(lambda t, b=block: after_attention(b, t), streams.student)
        streams.teacher = in_batches(lambda t, b=block: after_mlp(b, t), streams.student)
        weights = capped_weights(sensitivity.mlp[index], streams.prefix)
        fit, _ = measure_mlp(streams, block, weights)
        found.append(fit.centred())
        streams.student = streams.teacher
    return found


def removal_order(moments: Centred, weight: torch.Tensor, most: int) -> tuple[torch.Tensor, torch.Tensor]:
    """All neurons, the `most` first in order of removal, and the squared error each of those adds, float64.

    Removing neuron j costs |W_j|² / (C⁻¹)_jj once the others are refitted; then W and C⁻¹ are updated for
    those that stay.
    """
    size = len(moments.xx)
    ridge = RIDGE * float(moments.xx.diagonal().mean()) + 1e-12
    inverse = torch.linalg.inv(moments.xx + ridge * torch.eye(size, dtype=torch.float64))
    columns = weight.double().clone()
    alive = torch.ones(size, dtype=torch.bool)
    order, costs = [], []
    for _ in range(min(most, size)):
        diagonal = inverse.diagonal().clamp_min(1e-300)
        cost = columns.square().sum(0) / diagonal
        cost[~alive] = torch.inf
        chosen = int(cost.argmin())
        order.append(chosen)
        costs.append(float(cost[chosen]))
        row = inverse[chosen].clone()
        columns -= torch.outer(columns[:, chosen] / row[chosen], row)
        inverse -= torch.outer(row, row) / row[chosen]
        alive[chosen] = False
        columns[:, chosen], inverse[chosen], inverse[:, chosen] = 0, 0, 0
    order += torch.nonzero(alive)[:, 0].tolist()
    return torch.tensor(order), torch.tensor(costs, dtype=torch.float64)
