"""LayerNorms for NPUs that have no kernel for any: 1/sqrt(v) as a sum of exponentials of v.

1/sqrt(v) is the integral of exp(-v t²) over t, up to a constant, so a short sum of weighted exponentials comes as
close as float32 on any bounded range (Braess and Hackbusch 2005, "Approximation of 1/x by exponential sums in
[1, infinity)"). exp(z) = elu(z) + 1 for z <= 0, and the sums before and after are 1x1 convolutions: all of it has
kernels where division, roots and norms have none.
"""

from __future__ import annotations

import copy
import math
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from edgevit.rewrites.canonical import require_canonical
from edgevit.rewrites.centring import centre, stream_norms, why_mean_matters
from edgevit.rewrites.modules import CUT_OFF, ExponentialNorm
from edgevit.rewrites.result import RewriteResult
from edgevit.targets.profiles import Npu

BATCH = 16
# Channels of the two convolutions, by how many times the largest variance is the smallest: the NPUs' alignment.
TERMS = {4096.0: 16, 65536.0: 32}
# Other images' rows may be so many times less or more spread than those seen.
MARGIN = 4.0
TOLERANCE = 1e-5
# Rows a 64th as wide as the widest are one step of an int8 tensor: the norm of such a row would be noise.
MAX_UNLIKE = 4096.0
Exponentials = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]


def norms_by_exponentials(model: nn.Module, npu: Npu | None, inputs: torch.Tensor) -> RewriteResult:
    """Replace LayerNorms by squares, convolutions, ReLU and ELU; `inputs` [n, C, H, W] show their rows' variances.

    The residual stream loses its mean first, as in `norms_without_mean`. A norm whose rows' variances differ too
    much for int8 squares is left alone.
    """
    vit = copy.deepcopy(require_canonical(model, "norms-by-exponentials"))
    problem = why_mean_matters(vit)
    if problem is not None:
        return RewriteResult(model, False, problem)
    centre(vit)
    spans = variances(vit, stream_norms(vit), inputs)
    replaced = 0
    for name, (least, most) in spans.items():
        norm = vit.get_submodule(name)
        if most / least <= MAX_UNLIKE:
            vit.set_submodule(name, by_exponentials(norm, least / MARGIN, most * MARGIN))
            replaced += 1
    if not replaced:
        return RewriteResult(
            model, False, f"rows of every LayerNorm differ more than {MAX_UNLIKE:g}-fold in variance"
        )
    return RewriteResult(vit, True, f"{replaced} of {len(spans)} LayerNorms run as sums of exponentials")


@torch.no_grad()
def variances(vit: Any, names: list[str], inputs: torch.Tensor) -> dict[str, tuple[float, float]]:
    """Least and greatest variance plus epsilon of the rows each LayerNorm normalises."""
    spans: dict[str, tuple[float, float]] = {}

    def watch(name: str) -> Any:
        def look(norm: Any, given: tuple[torch.Tensor, ...]) -> None:
            rows = (
                given[0]
                if name != "norm" or vit.global_pool != "token"
                else given[0][:, : vit.num_prefix_tokens]
            )
            seen = rows.var(-1, unbiased=False) + norm.eps
            least, most = spans.get(name, (math.inf, 0.0))
            spans[name] = (min(least, float(seen.min())), max(most, float(seen.max())))

        return look

    norms = {name: vit.get_submodule(name) for name in names}
    hooks = [
        norm.register_forward_pre_hook(watch(name))
        for name, norm in norms.items()
        if isinstance(norm, nn.LayerNorm)
    ]
    try:
        for batch in torch.split(inputs, BATCH):
            vit(batch)
    finally:
        for hook in hooks:
            hook.remove()
    return spans


def by_exponentials(norm: nn.LayerNorm, low: float, high: float) -> ExponentialNorm:
    """The norm for rows whose variance plus epsilon is from `low` to `high`."""
    rates, shares = inverse_root(2.0 ** math.ceil(math.log2(high / low)))
    return ExponentialNorm(norm, torch.from_numpy(rates / low), torch.from_numpy(shares / math.sqrt(low)))


@cache
def inverse_root(ratio: float) -> Exponentials:
    """c [k] and w [k + 1] with 1/sqrt(v) = w[k] + Σ w[i] · (exp(max(-c[i] v, -CUT_OFF)) - exp(-CUT_OFF)), v in
    1..ratio.

    Weights are not negative, so that nothing cancels. Raises ValueError where it doesn't come within TOLERANCE.
    """
    from scipy.optimize import nnls

    terms = min((count for most, count in TERMS.items() if ratio <= most), default=max(TERMS.values()))
    v = np.geomspace(1, ratio, 1000)
    found: list[tuple[float, Exponentials]] = []
    for slowest in (0.05, 0.1, 0.2, 0.4):
        for fastest in (4.0, 8.0, CUT_OFF):
            rates = np.geomspace(slowest / ratio, fastest, terms)
            powers = np.exp(np.maximum(-np.outer(v, rates), -CUT_OFF)) - math.exp(-CUT_OFF)
            relative = np.column_stack([powers, np.ones_like(v)]) * np.sqrt(v)[:, None]
            shares, _ = nnls(relative, np.ones_like(v))
            found.append((float(np.abs(relative @ shares - 1).max()), (rates, shares)))
    error, best = min(found, key=lambda each: each[0])
    if error > TOLERANCE:
        raise ValueError(f"{terms} exponentials reach 1/sqrt(v) over 1..{ratio:g} to {error:.1g} only")
    return best
