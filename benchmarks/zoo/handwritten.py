"""Vision transformers as people write them: from a textbook, a paper's repository, around torchvision."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from edgevit import torch_setup  # noqa: F401

import torchvision  # isort: skip  # needs the line above

__all__ = ["mobilevit_paper", "t2t_vit", "t2t_vit_14", "textbook_vit", "torchvision_wrapped"]


class PostNormBlock(nn.Module):
    """Norms after the residual sums, attention from torch."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm1(x + self.attention(x, x, x, need_weights=False)[0])
        out: torch.Tensor = self.norm2(x + self.mlp(x))
        return out


class TextbookViT(nn.Module):
    """DeiT-Ti's size: [n, 3, 224, 224] to [n, 1000]."""

    def __init__(self, dim: int = 192, heads: int = 3, depth: int = 12) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, dim, 16, 16)
        self.class_token = nn.Parameter(torch.randn(1, 1, dim))
        self.positions = nn.Parameter(0.02 * torch.randn(1, 197, dim))
        self.blocks = nn.Sequential(*(PostNormBlock(dim, heads) for _ in range(depth)))
        self.head = nn.Linear(dim, 1000)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.patches(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_token.expand(len(x), -1, -1), x], dim=1) + self.positions
        out: torch.Tensor = self.head(self.blocks(x)[:, 0])
        return out


def textbook_vit() -> nn.Module:
    return TextbookViT()


class Wrapped(nn.Module):
    """A torchvision ViT of DeiT-Ti's size with another linear layer behind its own head."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = torchvision.models.VisionTransformer(
            image_size=224, patch_size=16, num_layers=12, num_heads=3, hidden_dim=192, mlp_dim=768
        )
        self.head = nn.Linear(1000, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.backbone(image))
        return out


def torchvision_wrapped() -> nn.Module:
    return Wrapped()


def convolution(into: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, norm, SiLU."""
    return nn.Sequential(
        nn.Conv2d(into, out, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out),
        nn.SiLU(),
    )


class InvertedResidual(nn.Module):
    """MobileNetV2's block."""

    def __init__(self, into: int, out: int, stride: int, expansion: int = 2) -> None:
        super().__init__()
        hidden = into * expansion
        self.residual = stride == 1 and into == out
        self.layers = nn.Sequential(
            convolution(into, hidden, 1),
            convolution(hidden, hidden, 3, stride, groups=hidden),
            nn.Conv2d(hidden, out, 1, bias=False),
            nn.BatchNorm2d(out),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layers(x)
        return x + out if self.residual else out


class PatchAttention(nn.Module):
    """Tokens stay [batch, pixel, patch, channel]; one linear layer gives q, k and v; `b p n (h d) -> b p h n d`."""

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


class PatchBlock(nn.Module):
    """A transformer block over patches."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(dim), PatchAttention(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.SiLU(), nn.Linear(hidden, dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm1(x))
        out: torch.Tensor = x + self.mlp(self.norm2(x))
        return out


class MobileViTBlock(nn.Module):
    """Local convolutions, unfolded transformer, fusion with the input."""

    def __init__(self, channels: int, dim: int, depth: int, side: int = 2) -> None:
        super().__init__()
        self.side = side
        self.local = nn.Sequential(convolution(channels, channels, 3), convolution(channels, dim, 1))
        self.blocks = nn.Sequential(*(PatchBlock(dim, 2 * dim) for _ in range(depth)))
        self.back = convolution(dim, channels, 1)
        self.fuse = convolution(2 * channels, channels, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.local(x)
        b, d, height, width = y.shape
        s, h, w = self.side, height // self.side, width // self.side
        y = y.reshape(b, d, h, s, w, s).permute(0, 3, 5, 2, 4, 1).reshape(b, s * s, h * w, d)
        y = self.blocks(y)
        y = y.reshape(b, s, s, h, w, d).permute(0, 5, 3, 1, 4, 2).reshape(b, d, height, width)
        out: torch.Tensor = self.fuse(torch.cat([x, self.back(y)], 1))
        return out


class MobileViTPaper(nn.Module):
    """MobileViT-XXS as its paper's repositories write it: [n, 3, 256, 256] to [n, classes]."""

    preprocessing = {"size": (256, 256)}

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            convolution(3, 16, 3, 2),
            InvertedResidual(16, 16, 1),
            InvertedResidual(16, 24, 2),
            InvertedResidual(24, 24, 1),
            InvertedResidual(24, 24, 1),
            InvertedResidual(24, 48, 2),
            MobileViTBlock(48, 64, 2),
            InvertedResidual(48, 64, 2),
            MobileViTBlock(64, 80, 4),
            InvertedResidual(64, 80, 2),
            MobileViTBlock(80, 96, 3),
            convolution(80, 320, 1),
        )
        self.head = nn.Linear(320, classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.layers(image).mean((2, 3)))
        return out


def mobilevit_paper() -> nn.Module:
    return MobileViTPaper()


class TokenAttention(nn.Module):
    """T2T-ViT's attention within its token module: from `into` channels to `dim`."""

    def __init__(self, into: int, dim: int, heads: int = 1) -> None:
        super().__init__()
        self.heads, self.dim = heads, dim
        self.norm1, self.qkv, self.proj = nn.LayerNorm(into), nn.Linear(into, 3 * dim), nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim))
        self.residual = into == dim

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attention = (q * (self.dim // self.heads) ** -0.5 @ k.transpose(-2, -1)).softmax(-1)
        mixed = self.proj((attention @ v).transpose(1, 2).reshape(b, n, self.dim))
        x = x + mixed if self.residual else v.transpose(1, 2).reshape(b, n, self.dim) + mixed
        out: torch.Tensor = x + self.mlp(self.norm2(x))
        return out


class T2TViT(nn.Module):
    """T2T-ViT-7's shape, with `unfold` between its token transformers: [n, 3, 224, 224] to [n, 1000]."""

    def __init__(self, dim: int = 256, heads: int = 4, depth: int = 7, token_dim: int = 64) -> None:
        super().__init__()
        self.first = TokenAttention(3 * 7 * 7, token_dim)
        self.second = TokenAttention(token_dim * 3 * 3, token_dim)
        self.project = nn.Linear(token_dim * 3 * 3, dim)
        self.class_token = nn.Parameter(torch.randn(1, 1, dim))
        angles = torch.arange(197)[:, None] / 10000 ** (2 * torch.arange(dim // 2) / dim)
        self.register_buffer("positions", torch.cat([angles.sin(), angles.cos()], 1)[None])
        self.blocks = nn.Sequential(*(TokenAttention(dim, dim, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, 1000)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = functional.unfold(image, 7, stride=4, padding=2).transpose(1, 2)
        for tokens in (self.first, self.second):
            x = tokens(x).transpose(1, 2)
            side = math.isqrt(x.shape[2])
            x = functional.unfold(x.reshape(*x.shape[:2], side, side), 3, stride=2, padding=1).transpose(1, 2)
        x = torch.cat([self.class_token.expand(len(x), -1, -1), self.project(x)], 1) + self.positions
        out: torch.Tensor = self.head(self.norm(self.blocks(x))[:, 0])
        return out


def t2t_vit() -> nn.Module:
    return T2TViT()


def t2t_vit_14() -> nn.Module:
    """As wide and as deep as T2T-ViT-14."""
    return T2TViT(384, 6, 14)
