"""The attention of MobileViT as its paper's repositories write it.

Tokens stay [batch, pixel, patch, channel]; one linear layer gives q, k and v, cut with `chunk`, and heads are
split over five dimensions.
"""

from __future__ import annotations

import torch
from torch import nn


class Attention(nn.Module):
    """`b p n (h d) -> b p h n d` and back."""

    def __init__(self, dim: int, heads: int = 4, head_dim: int = 8) -> None:
        super().__init__()
        self.heads, self.scale = heads, head_dim**-0.5
        self.qkv = nn.Linear(dim, 3 * heads * head_dim, bias=False)
        self.out = nn.Linear(heads * head_dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, p, n, _ = x.shape
        q, k, v = (
            part.reshape(b, p, n, self.heads, -1).permute(0, 1, 3, 2, 4)
            for part in self.qkv(x).chunk(3, dim=-1)
        )
        mixed = (q @ k.transpose(-1, -2) * self.scale).softmax(-1) @ v
        out: torch.Tensor = self.out(mixed.permute(0, 1, 3, 2, 4).reshape(b, p, n, -1))
        return out


class MobileViT(nn.Module):
    """One such block between convolutions, seeded random weights: [n, 3, 64, 64] to [n, 10]."""

    def __init__(self, dim: int = 64, side: int = 2, depth: int = 2) -> None:
        super().__init__()
        self.side = side
        self.stem = nn.Sequential(nn.Conv2d(3, dim, 8, 8), nn.SiLU())
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(depth))
        self.attentions = nn.ModuleList(Attention(dim) for _ in range(depth))
        self.head = nn.Linear(dim, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.stem(image)
        b, d, height, width = x.shape
        s, h, w = self.side, height // self.side, width // self.side
        x = x.reshape(b, d, h, s, w, s).permute(0, 3, 5, 2, 4, 1).reshape(b, s * s, h * w, d)
        for norm, attention in zip(self.norms, self.attentions, strict=True):
            x = x + attention(norm(x))
        x = x.reshape(b, s, s, h, w, d).permute(0, 5, 3, 1, 4, 2).reshape(b, d, height, width)
        out: torch.Tensor = self.head(x.mean((2, 3)))
        return out


def mobilevit() -> nn.Module:
    """The module in eval mode, its weights seeded."""
    torch.manual_seed(0)
    return MobileViT().eval()
