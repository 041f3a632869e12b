"""What int8 attention weights lose on average, given back through weights and biases.

Weights below half a step become 0, so rows of an int8 softmax don't sum to 1 and its outputs are a little
small. Which constant is subtracted from the values, which factor the outputs get and which constant is added
back is decided by least squares against the float outputs. QwT-v2 corrects channel by channel in this way.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch

from edgevit.quantize.activations import BATCH, forward
from edgevit.quantize.equalization import add_to_bias, value_rows
from edgevit.quantize.fake_quantization import Ranges, fake_quantize
from edgevit.quantize.tensor_names import kind_of


@dataclass
class Sums:
    """Sums over queries and images of one block; one row per head."""

    missing_squared: torch.Tensor
    missing_times_lost: torch.Tensor

    @property
    def offset(self) -> torch.Tensor:
        """m [heads, head_dim] that makes Σ δ (v - m) least, δ being what rounding changed in the weights."""
        return self.missing_times_lost / self.missing_squared.clamp(min=1e-12)[:, None]


class Losses:
    """A tap that follows the float model and sums what rounding its attention weights would lose."""

    def __init__(self, ranges: Ranges) -> None:
        self.ranges = ranges
        self.values: torch.Tensor = torch.empty(0)
        self.sums: dict[str, Sums] = {}

    def __call__(self, name: str, value: torch.Tensor, reader: str = "") -> torch.Tensor:
        if reader:
            return value
        if kind_of(name) == "v":
            self.values = value
        elif kind_of(name) == "softmax":
            self.add(name.rsplit(".", 1)[0], fake_quantize(value, *self.ranges[name]) - value)
        return value

    def add(self, block: str, change: torch.Tensor) -> None:
        """`change` [n, heads, queries, keys] of the weights."""
        missing, lost = change.sum(-1), change @ self.values
        squared = missing.square().sum((0, 2))
        product = (missing[..., None] * lost).sum((0, 2))
        if block in self.sums:
            self.sums[block].missing_squared += squared
            self.sums[block].missing_times_lost += product
        else:
            self.sums[block] = Sums(squared, product)


@torch.no_grad()
def shift_values(vit: Any, images: torch.Tensor, ranges: Ranges) -> Any:
    """Values shifted to where an int8 softmax loses least; proj's bias takes the constant. Exact in float.

    `ranges` gives the softmax ranges. As `moves.centre_values`, with the constant fitted to the rounding.
    """
    losses = Losses(ranges)
    for part in torch.split(images, BATCH):
        forward(vit, part, losses)
    changed = copy.deepcopy(vit)
    for index, block in enumerate(changed.blocks):
        attention = block.attn
        offset = losses.sums[f"blocks.{index}"].offset.flatten()
        add_to_bias(attention.qkv, value_rows(attention), -offset)
        add_to_bias(attention.proj, slice(None), attention.proj.weight @ offset)
    return changed
