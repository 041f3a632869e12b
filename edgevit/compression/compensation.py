"""Least squares that lets what is left of a linear layer stand in for what was removed. No gradient steps.

The correction (ΔW, Δb) of a layer y = W x + b minimises E w·|r − ΔW x − Δb|² + λ|ΔW|², where r is what its
output lacks, w a weight per token, and the expectation is taken over calibration tokens. With centred
moments this is ΔW = C_rx (C_xx + λI)⁻¹ and Δb = E[r] − ΔW E[x] (as in OSSCAR, Meng et al. 2024, and optimal
brain surgeon before it), in float64. λ, relative to the mean variance, is chosen on images held out of the fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from edgevit.any_threads import total

SHRINKAGES = (1e-5, 1e-4, 1e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0)


@dataclass(frozen=True)
class Centred:
    """Weighted means and covariances of features x and residuals r, float64.

    `xx` [p, p], `rx` [q, p], `rr` [q] (variances only), `mean_x` [p], `mean_r` [q].
    """

    mean_x: torch.Tensor
    mean_r: torch.Tensor
    xx: torch.Tensor
    rx: torch.Tensor
    rr: torch.Tensor

    def without(self, removed: torch.Tensor, kept: torch.Tensor, weight: torch.Tensor) -> Centred:
        """The problem after features `removed` (indices) go and their share W_S x_S joins the residual.

        `weight` [q, p] is the layer's, over all features. Variances of the residual follow exactly.
        """
        share = weight.double()[:, removed]
        gained = share @ self.xx[removed]
        rr = self.rr + 2 * (share * self.rx[:, removed]).sum(1) + (gained[:, removed] * share).sum(1)
        return Centred(
            self.mean_x[kept],
            self.mean_r + share @ self.mean_x[removed],
            self.xx[kept][:, kept],
            self.rx[:, kept] + gained[:, kept],
            rr,
        )


@dataclass
class Moments:
    """Running weighted sums over tokens; products in the tokens' own precision, sums in float64."""

    features: int
    outputs: int
    total: float = 0.0
    sums: list[torch.Tensor] = field(default_factory=list)

    def add(self, x: torch.Tensor, r: torch.Tensor, weights: torch.Tensor) -> None:
        """Add features x [..., p] and residuals r [..., q] with weights broadcast to their tokens [...]."""
        weights = weights.expand(x.shape[:-1]).reshape(-1, 1).to(x.dtype)
        x, r = x.reshape(-1, self.features), r.reshape(-1, self.outputs)
        weighted = x * weights
        new = [
            weighted.sum(0),
            (r * weights).sum(0),
            x.T @ weighted,
            r.T @ weighted,
            (r * r * weights).sum(0),
        ]
        doubles = [part.double() for part in new]
        self.sums = (
            [old + part for old, part in zip(self.sums, doubles, strict=True)] if self.sums else doubles
        )
        self.total += total(weights)

    def centred(self) -> Centred:
        """Means and covariances of everything added. Raises ValueError when nothing was."""
        if not self.total > 0:
            raise ValueError("no weighted tokens to fit on")
        mean_x, mean_r, xx, rx, rr = (part / self.total for part in self.sums)
        return Centred(
            mean_x,
            mean_r,
            xx - torch.outer(mean_x, mean_x),
            rx - torch.outer(mean_r, mean_x),
            rr - mean_r.square(),
        )


@dataclass(frozen=True)
class Correction:
    """ΔW [q, p] and Δb [q], float64, with the mean squared residual per token on the images held out.

    `shrinkage` is None where leaving the weights alone (Δb only) did best there.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    before: float
    after: float
    shrinkage: float | None


def solve(fit: Centred, check: Centred, shrinkages: Sequence[float] = SHRINKAGES) -> Correction:
    """The correction fitted on `fit` whose shrinkage leaves the least residual on `check`."""
    before = remaining(check, torch.zeros_like(fit.rx), torch.zeros_like(fit.mean_r))
    unchanged = Correction(torch.zeros_like(fit.rx), torch.zeros_like(fit.mean_r), before, before, None)
    shift = Correction(
        unchanged.weight, fit.mean_r, before, remaining(check, unchanged.weight, fit.mean_r), None
    )
    found = [unchanged, shift]
    values, vectors = torch.linalg.eigh(fit.xx)
    values = values.clamp_min(0)
    scale = float(values.mean()) if len(values) else 0.0
    if scale > 0:
        rotated = fit.rx @ vectors
        for shrinkage in shrinkages:
            weight = (rotated / (values + shrinkage * scale)) @ vectors.T
            bias = fit.mean_r - weight @ fit.mean_x
            found.append(Correction(weight, bias, before, remaining(check, weight, bias), shrinkage))
    return min(found, key=lambda correction: correction.after)


def remaining(moments: Centred, weight: torch.Tensor, bias: torch.Tensor) -> float:
    """E|r − ΔW x − Δb|² under the moments: no pass over the tokens needed."""
    spread = total(moments.rr) - 2 * total(weight * moments.rx) + total((weight @ moments.xx) * weight)
    offset = moments.mean_r - weight @ moments.mean_x - bias
    return max(0.0, spread + total(offset.square()))


@torch.no_grad()
def correct(linear: nn.Linear, correction: Correction) -> None:
    """Add a correction to a layer in place; a layer without bias gets one if it needs it."""
    linear.weight += correction.weight.to(linear.weight)
    if linear.bias is None and bool(correction.bias.any()):
        linear.bias = nn.Parameter(torch.zeros_like(linear.weight[:, 0]))
    if linear.bias is not None:
        linear.bias.add_(correction.bias.to(linear.weight))
