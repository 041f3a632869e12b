"""Which attention heads to remove, by what the outputs lose after the rest is refitted."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from edgevit.compression.blocks import after_attention, after_mlp, head, head_outputs, in_batches, outputs_of
from edgevit.compression.calibration_split import Split
from edgevit.compression.compensation import Centred, Correction, correct, solve
from edgevit.compression.fitting import TokenSensitivity, capped_weights, measure_projection
from edgevit.compression.fitting_streams import start_streams
from edgevit.outputs.output import CLASS_SCORES, Outputs
from edgevit.progress import QUIET, Progress

# Candidates whose outputs are computed at least once; the rest are ranked by their local error until needed.
SHORTLIST = 48


@dataclass(frozen=True)
class Removal:
    """One head removed: block and head as numbered in the dense model, and the KL divergence reached with it.

    `kl` in nats on held-out images, after the block's own projection was refitted but nothing else.
    """

    block: int
    head: int
    kl: float


def heads_of(vit: Any) -> tuple[int, ...]:
    """Heads of each block."""
    return tuple(block.attn.num_heads for block in vit.blocks)


def frozen_copy(vit: Any) -> Any:
    """A copy that shares nothing and takes no gradients."""
    return copy.deepcopy(vit).requires_grad_(False)


def rows_of(heads: Sequence[int], head_dim: int) -> torch.Tensor:
    """Indices of the heads' outputs among those of all heads."""
    return torch.tensor(
        [head * head_dim + channel for head in heads for channel in range(head_dim)], dtype=torch.long
    )


@torch.no_grad()
def drop_heads(attention: Any, heads: Sequence[int]) -> None:
    """Remove heads from a timm Attention in place: their rows of q, k and v, their columns of the projection."""
    if not heads:
        return
    kept = [head for head in range(attention.num_heads) if head not in set(heads)]
    columns = rows_of(kept, attention.head_dim)
    rows = torch.cat([columns + part * attention.attn_dim for part in range(3)])
    qkv, proj = attention.qkv, attention.proj
    attention.qkv = linear_of(qkv.weight[rows], None if qkv.bias is None else qkv.bias[rows])
    attention.proj = linear_of(proj.weight[:, columns], proj.bias)
    attention.num_heads = len(kept)
    attention.attn_dim = len(kept) * attention.head_dim


def linear_of(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Linear:
    """A Linear with copies of the given parameters."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, dtype=weight.dtype)
    linear.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return linear


@dataclass(frozen=True)
class BlockView:
    """One block of a student: its projection's problem, and held-out images on their way through it.

    `fit` and `check` are moments of head outputs and of what the projection lacks to reach the dense model;
    `sensitivity` is that of the model's outputs to the block's; `tokens` [n, tokens, dim] enter the block;
    `outputs` are those of its heads.
    """

    fit: Centred
    check: Centred
    sensitivity: float
    tokens: torch.Tensor
    outputs: torch.Tensor


@torch.no_grad()
def view_blocks(
    student: Any, teacher: Any, split: Split, sensitivity: TokenSensitivity, same: int = 0
) -> list[BlockView]:
    """Pass all images through student and teacher and keep what choosing heads needs.

    The first `same` blocks are those of the teacher: one pass does for both.
    """
    streams, views = start_streams(student, teacher, split), []
    for index, (block, dense) in enumerate(zip(student.blocks, teacher.blocks, strict=True)):
        outputs = in_batches(lambda t, b=block: head_outputs(b.attn, b.norm1(t)), streams.student)
        attended = in_batches(lambda t, o, b=block: t + b.ls1(b.attn.proj(o)), streams.student, outputs)
        streams.teacher = (
            attended
            if index < same
            else in_batches(lambda t, d=dense: after_attention(d, t), streams.teacher)
        )
        weights = capped_weights(sensitivity.attention[index], streams.prefix)
        fit, check = measure_projection(streams, outputs, block, weights)
        entering, total = streams.student[streams.fitted :].clone(), float(sensitivity.attention[index].sum())
        views.append(
            BlockView(fit.centred(), check.centred(), total, entering, outputs[streams.fitted :].clone())
        )
        streams.student = in_batches(lambda t, b=block: after_mlp(b, t), attended)
        streams.teacher = (
            streams.student
            if index < same
            else in_batches(lambda t, d=dense: after_mlp(d, t), streams.teacher)
        )
    return views


def without_head(block: Any, view: BlockView, index: int) -> tuple[torch.Tensor, Correction]:
    """Kept columns of the projection, and its correction, when head `index` of the block goes."""
    attention = block.attn
    kept = rows_of([other for other in range(attention.num_heads) if other != index], attention.head_dim)
    gone = rows_of([index], attention.head_dim)
    weight = attention.proj.weight
    fit, check = (moments.without(gone, kept, weight) for moments in (view.fit, view.check))
    return kept, solve(fit, check)


def kl_without(
    student: Any, block: int, view: BlockView, index: int, expected: torch.Tensor, outputs: Outputs
) -> float:
    """Divergence to `expected` outputs on held-out images without a head, its projection refitted."""
    attention = student.blocks[block].attn
    kept, correction = without_head(student.blocks[block], view, index)
    proj = linear_of(attention.proj.weight[:, kept], attention.proj.bias)
    correct(proj, correction)
    return kl_with(student, block, view, kept, proj, expected, outputs)


def kl_dropped(
    student: Any, block: int, view: BlockView, index: int, expected: torch.Tensor, outputs: Outputs
) -> float:
    """Divergence to `expected` outputs on held-out images without a head, nothing refitted."""
    attention = student.blocks[block].attn
    kept = rows_of([other for other in range(attention.num_heads) if other != index], attention.head_dim)
    proj = linear_of(attention.proj.weight[:, kept], attention.proj.bias)
    return kl_with(student, block, view, kept, proj, expected, outputs)


@torch.no_grad()
def kl_with(
    student: Any,
    block: int,
    view: BlockView,
    kept: torch.Tensor,
    proj: nn.Linear,
    expected: torch.Tensor,
    outputs: Outputs,
) -> float:
    """Divergence with another projection of the `kept` head outputs in one block, from there on."""
    own = student.blocks[block]

    def rest(tokens: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
        tokens = after_mlp(own, tokens + own.ls1(proj(mixed[..., kept])))
        for later in student.blocks[block + 1 :]:
            tokens = later(tokens)
        return head(student, tokens)

    return outputs.difference(in_batches(rest, view.tokens, view.outputs), expected).kl


def local_cost(block: Any, view: BlockView, index: int) -> float:
    """A first guess of the KL divergence a head costs: half the sensitivity times the squared error it adds.

    The error is taken to point anywhere among the output's channels.
    """
    _, correction = without_head(block, view, index)
    already = float(view.check.rr.sum() + view.check.mean_r.square().sum())
    return 0.5 * view.sensitivity * max(0.0, correction.after - already) / len(view.check.rr)


@torch.no_grad()
def choose_heads(
    vit: Any,
    count: int,
    split: Split,
    sensitivity: TokenSensitivity,
    *,
    shortlist: int = SHORTLIST,
    most_kl: float = math.inf,
    outputs: Outputs = CLASS_SCORES,
    progress: Progress = QUIET,
) -> list[Removal]:
    """Pick heads one at a time by the divergence of the `outputs` they leave (KL of class scores); block and
    head as numbered in `vit`.

    The price of a head rarely falls when others go. So a price from an earlier step bounds today's from
    below, and only heads whose old price is under the best new one are priced again (lazy greedy, Minoux
    1978). The choice ends early with the first head that takes the divergence past `most_kl` nats. Before the
    first step, heads beyond the `shortlist` cheapest by local error have that rank only.
    """
    student, expected = frozen_copy(vit), outputs_of(vit, split.check)
    alive = [list(range(heads)) for heads in heads_of(vit)]
    prices: dict[tuple[int, int], float] = {}
    removed: list[Removal] = []
    reached = 0.0
    while len(removed) < count and reached <= most_kl:
        same = min((each.block for each in removed), default=len(vit.blocks))
        views = view_blocks(student, vit, split, sensitivity, same)
        if not removed:
            prices = first_prices(student, views, alive, shortlist)
        fresh: dict[tuple[int, int], float] = {}
        for candidate in sorted(prices, key=prices.__getitem__):
            block, index = candidate
            if len(alive[block]) < 2:
                continue
            if fresh and min(fresh.values()) <= prices[candidate]:
                break
            position = alive[block].index(index)
            kl = kl_without(student, block, views[block], position, expected, outputs)
            fresh[candidate] = kl - reached
        best = min(fresh, key=fresh.__getitem__)
        reached += fresh[best]
        prices.update(fresh)
        del prices[best]
        block, index = best
        position = alive[block].index(index)
        _, correction = without_head(student.blocks[block], views[block], position)
        drop_heads(student.blocks[block].attn, [position])
        correct(student.blocks[block].attn.proj, correction)
        alive[block].remove(index)
        removed.append(Removal(block, index, reached))
        progress.advance(len(removed), count, f"block {block} head {index}, KL {reached:.3f}")
    return removed


def first_prices(
    student: Any, views: Sequence[BlockView], alive: Sequence[Sequence[int]], shortlist: int
) -> dict[tuple[int, int], float]:
    """-1 for the heads to be priced in the first step, then increasing with local error: priced when reached."""
    costs = {
        (block, index): local_cost(student.blocks[block], views[block], position)
        for block, indices in enumerate(alive)
        for position, index in enumerate(indices)
    }
    ranked = sorted(costs, key=costs.__getitem__)
    return {
        candidate: -1.0 if rank < shortlist else costs[candidate] for rank, candidate in enumerate(ranked)
    }
