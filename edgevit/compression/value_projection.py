"""Values and projection of a block's heads refitted together: kept patterns carry what removed heads did.

With attention patterns A_h fixed, a block adds Σ_h (A_h X) V_h O_h + b, where V_h [dim, head_dim] and
O_h [head_dim, dim] are a head's value and projection weights. Refitting O alone reuses the values the kept
heads happened to have; alternating least squares over O and V chooses them again. All of it happens on
second moments of A_h X, so that one pass over the images is enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from edgevit.compression.blocks import unscaled
from edgevit.compression.compensation import Centred, Moments, remaining
from edgevit.compression.fitting_streams import Streams

RIDGES = (1e-3, 1e-2, 1e-1, 1.0)
ROUNDS = 6
# Features beyond this many would need moments of gigabytes; such blocks keep their values.
MAX_FEATURES = 3072


@dataclass(frozen=True)
class ValueFit:
    """Weights of all heads, V [heads, dim, head_dim] and O [heads, head_dim, dim], and Δb [dim]; float64.

    `before` and `after` are mean squared residuals on held-out images.
    """

    values: torch.Tensor
    outputs: torch.Tensor
    bias: torch.Tensor
    before: float
    after: float
    ridge: float | None


def spread_inputs(attention: Any, normed: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """A_h X of every head for the given tokens: [n, tokens, dim] -> [n, len(tokens), heads · dim]."""
    count, length, _ = normed.shape
    parts = attention.qkv(normed).reshape(count, length, 3, attention.num_heads, attention.head_dim)
    q, k, _ = parts.permute(2, 0, 3, 1, 4).unbind(0)
    q, k = attention.q_norm(q[:, :, tokens]), attention.k_norm(k)
    patterns = (q @ k.transpose(-2, -1) * attention.scale).softmax(-1)
    spread: torch.Tensor = (patterns @ normed[:, None]).transpose(1, 2).flatten(2)
    return spread


def measure_values(streams: Streams, block: Any, weights: torch.Tensor) -> tuple[Moments, Moments]:
    """Moments (fitted, held out) of A_h X and of what the projection's output lacks to reach the teacher."""
    attention = block.attn
    features = attention.num_heads * attention.qkv.in_features
    fit, check = (
        Moments(features, attention.proj.out_features),
        Moments(features, attention.proj.out_features),
    )
    values, outputs = weights_of(attention)
    mixing = torch.cat([v @ o for v, o in zip(values, outputs, strict=True)]).float()
    constant = attention.proj(value_bias(attention))
    for part, fitted in streams.slices():
        tokens = streams.sample(part)
        x = spread_inputs(attention, block.norm1(streams.student[part]), tokens)
        lacking = unscaled(streams.lacking(part)[:, tokens], block.ls1) - (x @ mixing + constant)
        (fit if fitted else check).add(x, lacking, streams.weights_of_sample(weights, tokens))
    return fit, check


def weights_of(attention: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """V [heads, dim, head_dim] and O [heads, head_dim, dim] of an attention, float64."""
    heads, size = attention.num_heads, attention.head_dim
    values = attention.qkv.weight[2 * attention.attn_dim :].double().reshape(heads, size, -1)
    outputs = attention.proj.weight.double().T.reshape(heads, size, -1)
    return values.transpose(1, 2).clone(), outputs.clone()


def value_bias(attention: Any) -> torch.Tensor:
    """The values' bias [attn_dim]: patterns sum to one, so it reaches the projection unchanged."""
    if attention.qkv.bias is None:
        return torch.zeros_like(attention.proj.weight[0])
    bias: torch.Tensor = attention.qkv.bias[2 * attention.attn_dim :]
    return bias


def solve_values(attention: Any, fit: Centred, check: Centred, ridges: Sequence[float] = RIDGES) -> ValueFit:
    """Alternate between O and V from the present weights; keep the round that leaves least on `check`."""
    values, outputs = weights_of(attention)
    bias = value_bias(attention).double().reshape(len(values), -1)
    none = torch.zeros_like(fit.mean_r)
    before = remaining(check, torch.zeros_like(fit.rx), none)
    best = ValueFit(values, outputs, none, before, before, None)
    present = mixed(values, outputs)
    for ridge in ridges:
        v, o = values.clone(), outputs.clone()
        for _ in range(ROUNDS):
            o = next_outputs(v, o, fit, present, ridge)
            v = next_values(v, o, fit, present, ridge)
            change = (mixed(v, o) - present).T
            shift = fit.mean_r - change @ fit.mean_x
            after = remaining(check, change, shift)
            if after < best.after:
                moved = ((bias[:, None] @ (outputs - o)).sum((0, 1))) + shift
                best = ValueFit(v.clone(), o.clone(), moved, before, after, ridge)
    return best


def mixed(values: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
    """V_h O_h stacked: [heads · dim, dim]."""
    return (values @ outputs).flatten(0, 1)


def next_outputs(
    values: torch.Tensor, outputs: torch.Tensor, fit: Centred, present: torch.Tensor, ridge: float
) -> torch.Tensor:
    """O that leaves least of the residual with V fixed, near the O given."""
    spread: torch.Tensor = torch.block_diag(*values)  # type: ignore[no-untyped-call]
    left = fit.rx.T - fit.xx @ (mixed(values, outputs) - present)
    gram = spread.T @ fit.xx @ spread
    gram += ridge * gram.diagonal().mean().clamp_min(1e-12) * torch.eye(len(gram), dtype=gram.dtype)
    change: torch.Tensor = torch.linalg.solve(gram, spread.T @ left)
    return outputs + change.reshape(outputs.shape)


def next_values(
    values: torch.Tensor, outputs: torch.Tensor, fit: Centred, present: torch.Tensor, ridge: float
) -> torch.Tensor:
    """V of one head after another that leaves least of the residual with O fixed, near the V given."""
    values, dim = values.clone(), values.shape[1]
    for head in range(len(values)):
        rows = slice(head * dim, (head + 1) * dim)
        left = (fit.rx.T - fit.xx @ (mixed(values, outputs) - present))[rows]
        gram = fit.xx[rows, rows]
        gram = gram + ridge * gram.diagonal().mean().clamp_min(1e-12) * torch.eye(dim, dtype=gram.dtype)
        inner = outputs[head] @ outputs[head].T
        inner = inner + 1e-6 * inner.diagonal().mean().clamp_min(1e-12) * torch.eye(
            len(inner), dtype=gram.dtype
        )
        values[head] += torch.linalg.solve(gram, left @ outputs[head].T) @ torch.linalg.inv(inner)
    return values


@torch.no_grad()
def set_values(attention: Any, found: ValueFit) -> None:
    """Write a fit into an attention in place; its projection gets a bias if it needs one."""
    attention.qkv.weight[2 * attention.attn_dim :] = found.values.transpose(1, 2).flatten(0, 1).float()
    attention.proj.weight.copy_(found.outputs.flatten(0, 1).T)
    if attention.proj.bias is None and bool(found.bias.any()):
        attention.proj.bias = torch.nn.Parameter(torch.zeros_like(attention.proj.weight[:, 0]))
    if attention.proj.bias is not None:
        attention.proj.bias += found.bias.to(attention.proj.bias)
