"""Small attention models in the spellings that people write, as graphs."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from edgevit.export.onnx_graph import simplified

SPELLINGS = ("packed", "chunks", "three layers", "heads behind channels", "torch's own")


class Attention(nn.Module):
    """x [n, tokens, dim] plus its attention, in one of SPELLINGS; `bias` [heads, tokens, tokens] on the scores."""

    def __init__(self, spelling: str, dim: int, heads: int, bias: torch.Tensor | None = None) -> None:
        super().__init__()
        self.spelling, self.heads, self.scale = spelling, heads, (dim // heads) ** -0.5
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.layers = nn.ModuleList(nn.Linear(dim, dim, bias=number != 1) for number in range(3))
        self.torchs = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.norm, self.bias = nn.LayerNorm(dim), bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.spelling == "torch's own":
            return self.norm(x + self.torchs(x, x, x, need_weights=False)[0])
        q, k, v = self.split(x)
        scores = (
            (q * self.scale) @ k.transpose(-2, -1) if self.heads % 2 else q @ k.transpose(-2, -1) * self.scale
        )
        scores = scores if self.bias is None else scores + self.bias
        out = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        return self.norm(x + self.proj(out))

    def split(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """q, k and v [n, heads, tokens, width]."""
        n, tokens, dim = x.shape
        width = dim // self.heads
        if self.spelling == "packed":
            return tuple(
                self.qkv(x).reshape(n, tokens, 3, self.heads, width).permute(2, 0, 3, 1, 4).unbind(0)
            )
        if self.spelling == "three layers":
            return tuple(layer(x).view(n, tokens, self.heads, width).transpose(1, 2) for layer in self.layers)
        parts = self.qkv(x).chunk(3, dim=-1)
        if self.spelling == "chunks":
            return tuple(part.unflatten(-1, (self.heads, width)).transpose(1, 2) for part in parts)
        return tuple(part.unflatten(-1, (width, self.heads)).permute(0, 3, 1, 2) for part in parts)


class Classifier(nn.Module):
    """Patches of an image, attention `depth` times, logits of the first token or of the mean."""

    def __init__(
        self,
        spelling: str,
        *,
        patch: int,
        grid: int,
        dim: int,
        heads: int,
        depth: int = 2,
        mean: bool = False,
    ) -> None:
        super().__init__()
        self.patches, self.mean = nn.Conv2d(3, dim, patch, patch), mean
        self.first = nn.Parameter(torch.randn(1, 1, dim))
        self.positions = nn.Parameter(torch.randn(1, grid * grid + 1, dim))
        self.blocks = nn.Sequential(*(Attention(spelling, dim, heads) for _ in range(depth)))
        self.head = nn.Linear(dim, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.patches(image).flatten(2).transpose(1, 2)
        x = self.blocks(torch.cat([self.first.expand(len(x), -1, -1), x], 1) + self.positions)
        return self.head(x.mean(1) if self.mean else x[:, 0])


def graph_of(module: nn.Module, *shape: int) -> onnx.ModelProto:
    """A module exported and simplified, with an input of this shape."""
    buffer = io.BytesIO()
    warnings.simplefilter("ignore")  # of the exporter
    torch.onnx.export(
        module.eval(),
        (torch.zeros(shape),),
        buffer,
        dynamo=False,
        opset_version=19,
        input_names=["input"],
        output_names=["logits"],
    )
    return simplified(onnx.load_from_string(buffer.getvalue()))


def noise(*shape: int, seed: int = 0) -> Any:
    """Seeded float32 noise."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def kinds(graph: onnx.ModelProto) -> list[str]:
    """The operations of a graph."""
    return [node.op_type for node in graph.graph.node]
