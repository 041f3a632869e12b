"""The modules surgeries put in place of timm's: same parameters and names, other order of computation."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.nn import functional


class SplitPatchEmbed(nn.Module):
    """A patch embedding whose convolution runs as a chain of smaller ones.

    `taps` copy pixels into channels (weights 0 and 1), `proj` carries the trained weights. Takes
    [batch, channels, H, W] of one fixed size, gives what the original gave: [batch, tokens, dim].
    """

    def __init__(self, original: Any, taps: nn.Sequential, proj: nn.Conv2d) -> None:
        super().__init__()
        self.img_size, self.grid_size = original.img_size, original.grid_size
        self.num_patches, self.patch_size = original.num_patches, original.patch_size
        self.flatten = original.flatten
        self.taps, self.proj, self.norm = taps, proj, copied(original.norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if tuple(x.shape[-2:]) != tuple(self.img_size):
            raise ValueError(f"an image of {tuple(x.shape[-2:])} does not fit a model of {self.img_size}")
        x = self.proj(self.taps(x))
        if self.flatten:
            x = x.flatten(2).transpose(1, 2)
        normed: torch.Tensor = self.norm(x)
        return normed


class SurgeryAttention(nn.Module):
    """Self-attention with the scale folded into q, and optionally queries from the first tokens only.

    softmax(q kᵀ) v over `num_heads` heads, [batch, tokens, dim] -> [batch, queries or tokens, dim].
    Parameters keep timm's names and layout (qkv holds q, k and v rows), so that what reads weights still can.
    """

    def __init__(self, original: Any, *, scale: float, queries: int | None = None) -> None:
        super().__init__()
        self.num_heads, self.head_dim = original.num_heads, original.head_dim
        self.attn_dim = original.attn_dim
        self.scale, self.queries = scale, queries
        self.qkv, self.proj = copied(original.qkv), copied(original.proj)
        self.q_norm, self.k_norm = copied(original.q_norm), copied(original.k_norm)
        self.norm, self.gate = copied(original.norm), copied(original.gate)

    def forward(self, x: torch.Tensor, attn_mask: None = None, is_causal: bool = False) -> torch.Tensor:
        if attn_mask is not None or is_causal:
            raise ValueError("a rewritten attention takes no mask")
        q, k, v = self.heads(x)
        out = self.attend(q, k, v)
        out = self.norm(out.transpose(1, 2).flatten(2))
        if self.gate is not None:
            out = out * self.gate(self.reading(x)).sigmoid()
        projected: torch.Tensor = self.proj(out)
        return projected

    def heads(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """q [batch, heads, queries, head_dim], k and v [batch, heads, tokens, head_dim], q already scaled."""
        if self.queries is None:
            q, k, v = self.qkv(x).chunk(3, dim=-1)
        else:
            dim, bias = self.attn_dim, self.qkv.bias
            q = functional.linear(
                self.reading(x), self.qkv.weight[:dim], None if bias is None else bias[:dim]
            )
            k, v = functional.linear(x, self.qkv.weight[dim:], None if bias is None else bias[dim:]).chunk(
                2, dim=-1
            )
        q, k, v = (part.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2) for part in (q, k, v))
        q, k = self.q_norm(q), self.k_norm(k)
        return q if self.scale == 1.0 else q * self.scale, k, v

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return (q @ k.transpose(-2, -1)).softmax(dim=-1) @ v

    def reading(self, x: torch.Tensor) -> torch.Tensor:
        """The tokens that ask: all of them, or the first `queries`."""
        return x if self.queries is None else x[:, : self.queries]


class HeadTokensBlock(nn.Module):
    """A transformer block that returns only the first `queries` tokens: those the head reads.

    Every token is still a key and a value; queries, projection and MLP exist only for the tokens returned.
    """

    def __init__(self, original: Any, queries: int) -> None:
        super().__init__()
        self.queries = queries
        self.norm1, self.ls1 = copied(original.norm1), copied(original.ls1)
        self.norm2, self.mlp, self.ls2 = copied(original.norm2), copied(original.mlp), copied(original.ls2)
        self.attn = rebuilt_attention(original.attn, queries=queries)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = x[:, : self.queries] + self.ls1(self.attn(self.norm1(x)))
        result: torch.Tensor = out + self.ls2(self.mlp(self.norm2(out)))
        return result


def rebuilt_attention(attention: Any, queries: int | None) -> SurgeryAttention:
    """The same attention as our own module, reading queries from the first tokens; its scale is kept."""
    return SurgeryAttention(attention, scale=float(attention.scale), queries=queries)


def copied(module: Any) -> Any:
    """A copy that shares nothing with the original."""
    return copy.deepcopy(module)
