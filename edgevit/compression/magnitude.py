"""What goes where there are no images to choose by: the heads and neurons of least weight, nothing refitted.

Good for counting what a smaller model costs on a target, useless for its accuracy.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from edgevit.compression.head_choice import drop_heads, heads_of
from edgevit.compression.neurons import keep_neurons


def drop_lightest_heads(model: nn.Module, count: int) -> nn.Module:
    """A copy of a canonical ViT without the `count` heads of least projection weight; each block keeps one."""
    vit: Any = copy.deepcopy(model)
    weights = {
        (block, head): float(columns.square().sum())
        for block, part in enumerate(vit.blocks)
        for head, columns in enumerate(part.attn.proj.weight.detach().split(part.attn.head_dim, dim=1))
    }
    left, gone = list(heads_of(vit)), [list[int]() for _ in vit.blocks]
    for block, head in sorted(weights, key=weights.__getitem__):
        if sum(map(len, gone)) < count and left[block] > 1:
            left[block] -= 1
            gone[block].append(head)
    for block, heads in zip(vit.blocks, gone, strict=True):
        drop_heads(block.attn, heads)
    smaller: nn.Module = vit
    return smaller


def drop_lightest_neurons(model: nn.Module, count: int, alignment: int) -> nn.Module:
    """A copy without `count` MLP neurons, rounded down to `alignment`, of least weight in each block's order."""
    vit: Any = copy.deepcopy(model)
    groups = []
    orders = []
    for block, part in enumerate(vit.blocks):
        weight = part.mlp.fc1.weight.detach().square().sum(1) * part.mlp.fc2.weight.detach().square().sum(0)
        orders.append(weight.argsort())
        steps = weight[orders[-1]].split(alignment)[: len(weight) // alignment - 1]
        groups += [(float(step.sum()), block) for step in steps]
    gone = [0] * len(orders)
    for _, block in sorted(groups)[: count // alignment]:
        gone[block] += alignment
    for part, order, removed in zip(vit.blocks, orders, gone, strict=True):
        keep_neurons(part.mlp, torch.sort(order[removed:]).values)
    smaller: nn.Module = vit
    return smaller
