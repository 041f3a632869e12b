"""A smaller ViT on disk: weights, and the structure that the original model must take on to hold them."""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from edgevit.compression.head_choice import drop_heads, heads_of
from edgevit.compression.neurons import keep_neurons, neurons_of
from edgevit.compression.resolution import change_resolution

WEIGHTS = "weights.safetensors"


@dataclass(frozen=True)
class Structure:
    """Input size (height, width) in pixels; heads and MLP neurons of each block."""

    size: tuple[int, int]
    heads: tuple[int, ...]
    neurons: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values for a step's metrics."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Structure:
        """The inverse of `to_json`."""
        return cls(*(tuple(values[name]) for name in ("size", "heads", "neurons")))


def structure_of(vit: Any) -> Structure:
    """What sets this canonical ViT apart from the model it was made from."""
    return Structure(tuple(vit.patch_embed.img_size), heads_of(vit), neurons_of(vit))


def save(module: nn.Module, folder: Path) -> None:
    """Write the weights; the structure is the caller's to keep."""
    state = {name: tensor.detach().contiguous() for name, tensor in module.state_dict().items()}
    save_file(state, folder / WEIGHTS)


def load(original: nn.Module, structure: Structure, folder: Path) -> nn.Module:
    """The saved model, made from `original`, which isn't changed: eval mode, no gradients."""
    vit: Any = copy.deepcopy(original)
    if structure.size != tuple(vit.patch_embed.img_size):
        vit = change_resolution(vit, structure.size)
    for block, heads, neurons in zip(vit.blocks, structure.heads, structure.neurons, strict=True):
        drop_heads(block.attn, range(heads, block.attn.num_heads))
        keep_neurons(block.mlp, torch.arange(neurons))
    vit.load_state_dict(load_file(folder / WEIGHTS))
    smaller: nn.Module = vit.eval().requires_grad_(False)
    return smaller


def multiplications(vit: Any) -> int:
    """Multiply-accumulates of one image through stem, blocks and classifier; norms and softmax aside."""
    tokens = vit.patch_embed.num_patches + vit.num_prefix_tokens
    stem = vit.patch_embed.proj
    total = vit.patch_embed.num_patches * stem.weight.numel()
    for block in vit.blocks:
        linears = (block.attn.qkv, block.attn.proj, block.mlp.fc1, block.mlp.fc2)
        total += tokens * sum(linear.weight.numel() for linear in linears)
        total += 2 * tokens**2 * block.attn.attn_dim
    heads = [
        module for module in (vit.head, getattr(vit, "head_dist", None)) if isinstance(module, nn.Linear)
    ]
    return int(total + sum(module.weight.numel() for module in heads))
