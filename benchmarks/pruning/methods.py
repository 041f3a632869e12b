"""Which heads to remove, as others choose them: by weight, by Taylor expansion, by Torch-Pruning's ViT example."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from edgevit.compression.head_choice import Removal

BATCH = 16
Images = torch.Tensor
Labels = torch.Tensor


def by_magnitude(vit: Any, count: int, images: Images, labels: Labels) -> list[Removal]:
    """Heads of least weight: the norm of their rows of q, k, v and their columns of the projection."""
    scores = {}
    for index, block in enumerate(vit.blocks):
        heads, size = block.attn.num_heads, block.attn.head_dim
        qkv = block.attn.qkv.weight.detach().reshape(3, heads, size, -1).square().sum((0, 2, 3))
        proj = block.attn.proj.weight.detach().reshape(-1, heads, size).square().sum((0, 2))
        scores |= {(index, head): float(qkv[head] + proj[head]) for head in range(heads)}
    return cheapest(scores, count)


def by_taylor(vit: Any, count: int, images: Images, labels: Labels) -> list[Removal]:
    """Heads whose mask the loss feels least, E|dL/dm| with labels (Michel et al. 2019)."""
    vit = copy.deepcopy(vit).requires_grad_(False)
    masks = [torch.ones(block.attn.num_heads, requires_grad=True) for block in vit.blocks]

    def masked(mask: torch.Tensor, size: int) -> Callable[..., torch.Tensor]:
        return lambda layer, given: given[0] * mask.repeat_interleave(size)

    for block, mask in zip(vit.blocks, masks, strict=True):
        block.attn.proj.register_forward_pre_hook(masked(mask, block.attn.head_dim))
    totals = [torch.zeros(len(mask)) for mask in masks]
    for image, label in zip(images, labels, strict=True):
        loss = functional.cross_entropy(vit(image[None]), label[None])
        for total, gradient in zip(totals, torch.autograd.grad(loss, masks), strict=True):
            total += gradient.abs()
    # Michel et al. divide by the norm over a layer's heads, so that layers compare.
    scores = {
        (block, head): float(total[head] / total.norm())
        for block, total in enumerate(totals)
        for head in range(len(total))
    }
    return cheapest(scores, count)


def by_torch_pruning(vit: Any, count: int, images: Images, labels: Labels) -> list[Removal]:
    """What Torch-Pruning's pruner takes in its ViT example: group Taylor importance with labels, all layers ranked
    together (global_pruning), heads only."""
    import torch_pruning

    model = copy.deepcopy(vit).requires_grad_(True)
    heads = {block.attn.qkv: block.attn.num_heads for block in model.blocks}
    blocks = {block.attn.qkv: index for index, block in enumerate(model.blocks)}
    size = model.blocks[0].attn.head_dim
    with torch.enable_grad():
        for start in range(0, len(images), BATCH):
            part = slice(start, start + BATCH)
            loss = functional.cross_entropy(model(images[part]), labels[part], reduction="sum")
            (loss / len(images)).backward()
    pruner = torch_pruning.pruner.BasePruner(
        model,
        images[:1],
        importance=torch_pruning.importance.GroupTaylorImportance(),
        global_pruning=True,
        # 1.6.1 skips heads altogether at a ratio of 0; with only qkv to prune and no head dims, nothing else goes.
        pruning_ratio=1e-6,
        ignored_layers=[layer for layer in model.modules() if layer not in heads and is_linear(layer)],
        num_heads=heads,
        prune_num_heads=True,
        prune_head_dims=False,
        head_pruning_ratio=count / sum(heads.values()),
    )
    removed = []
    for group in pruner.step(interactive=True):
        for dependency, indices in group:
            layer = dependency.target.module
            if layer in blocks:
                total = layer.out_features // 3
                gone = sorted({(index % total) // size for index in indices})
                removed += [Removal(blocks[layer], head, 0.0) for head in gone]
    return sorted(set(removed), key=lambda removal: (removal.block, removal.head))


def is_linear(layer: Any) -> bool:
    """Whether a layer has channels to prune."""
    return isinstance(layer, torch.nn.Linear | torch.nn.Conv2d)


def cheapest(scores: dict[tuple[int, int], float], count: int) -> list[Removal]:
    """The `count` heads of least score; every block keeps one."""
    left: dict[int, int] = {}
    for block, _ in scores:
        left[block] = left.get(block, 0) + 1
    chosen: list[Removal] = []
    for block, head in sorted(scores, key=scores.__getitem__):
        if len(chosen) < count and left[block] > 1:
            left[block] -= 1
            chosen.append(Removal(block, head, 0.0))
    return chosen


METHODS = {"weight magnitude": by_magnitude, "Taylor": by_taylor, "Torch-Pruning": by_torch_pruning}
