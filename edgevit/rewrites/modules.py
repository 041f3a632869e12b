"""The modules rewrites put in place of timm's: same parameters and names, other order of computation."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional


class SurgeryAttention(nn.Module):
    """Self-attention with the scale folded into q; [batch, tokens, dim] -> [batch, queries or tokens, dim].

    `queries`: only the first so many tokens ask.
    Parameters keep timm's names and layout (qkv holds q, k and v rows), so that what reads weights still can.
    """

    def __init__(self, original: Any, *, scale: float, queries: int | None = None) -> None:
        super().__init__()
        self.num_heads, self.head_dim = original.num_heads, original.head_dim
        self.attn_dim, self.scale, self.queries = original.attn_dim, scale, queries
        self.qkv, self.proj = copied(original.qkv), copied(original.proj)
        self.q_norm, self.k_norm = copied(original.q_norm), copied(original.k_norm)
        self.norm, self.gate = copied(original.norm), copied(original.gate)

    def forward(self, x: torch.Tensor, attn_mask: None = None, is_causal: bool = False) -> torch.Tensor:
        if attn_mask is not None or is_causal:
            raise ValueError("a rewritten attention takes no mask")
        q, k, v = self.heads(x)
        out = (q @ k.transpose(-2, -1)).softmax(dim=-1) @ v
        out = self.norm(out.transpose(1, 2).flatten(2))
        if self.gate is not None:
            out = out * self.gate(self.query_tokens(x)).sigmoid()
        projected: torch.Tensor = self.proj(out)
        return projected

    def heads(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """q [batch, heads, queries, head_dim], k and v [batch, heads, tokens, head_dim], q already scaled."""
        if self.queries is None:
            q, k, v = self.qkv(x).chunk(3, dim=-1)
        else:
            dim, bias = self.attn_dim, self.qkv.bias
            q_bias, kv_bias = (None, None) if bias is None else (bias[:dim], bias[dim:])
            q = functional.linear(self.query_tokens(x), self.qkv.weight[:dim], q_bias)
            k, v = functional.linear(x, self.qkv.weight[dim:], kv_bias).chunk(2, dim=-1)
        q, k, v = (part.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2) for part in (q, k, v))
        q, k = self.q_norm(q), self.k_norm(k)
        return q if self.scale == 1.0 else q * self.scale, k, v

    def query_tokens(self, x: torch.Tensor) -> torch.Tensor:
        """The tokens that have a query: all of them, or the first `queries`."""
        return x if self.queries is None else x[:, : self.queries]


class HeadTokensBlock(nn.Module):
    """A transformer block that returns only the first `returned` tokens.

    Every token is a key and a value; queries, projection and MLP exist for the first `queries` tokens, at
    least as many as are returned (None: for all).
    """

    def __init__(self, original: Any, *, queries: int | None, returned: int) -> None:
        super().__init__()
        self.queries, self.returned = queries, returned
        self.norm1, self.ls1 = copied(original.norm1), copied(original.ls1)
        self.norm2, self.mlp, self.ls2 = copied(original.norm2), copied(original.mlp), copied(original.ls2)
        self.attn = rebuilt_attention(original.attn, queries=queries)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = x[:, : self.queries] + self.ls1(self.attn(self.norm1(x)))
        result: torch.Tensor = out + self.ls2(self.mlp(self.norm2(out)))
        return result[:, : self.returned]


class MeanFreeNorm(nn.Module):
    """LayerNorm of rows whose mean is zero: x / sqrt(mean(x²) + eps), then weight and bias where they do something.

    Runtimes without a LayerNorm operation compute five operations instead of ten.
    """

    def __init__(self, original: Any) -> None:
        super().__init__()
        self.eps = float(original.eps)
        self.weight = own(original.weight, 1.0)
        self.bias = own(original.bias, 0.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x * torch.rsqrt((x * x).mean(-1, keepdim=True) + self.eps)
        y = y if self.weight is None else y * self.weight
        return y if self.bias is None else y + self.bias


# exp(-12) is 6e-6: an exponential that small adds nothing, and int8 need not hold what leads to it.
CUT_OFF = 12.0


class ExponentialNorm(nn.Module):
    """LayerNorm of rows whose mean is zero: x · Σ w exp(-c v), v = mean(x²) + eps, then weight and bias.

    `rates` c [terms] and `shares` w [terms + 1], the last a constant, make the sum 1/sqrt(v): see
    `exponential_norms.inverse_root`. Exponents are cut off by a ReLU, because int8 needs bounds.
    """

    def __init__(self, original: Any, rates: torch.Tensor, shares: torch.Tensor) -> None:
        super().__init__()
        dim, terms = original.normalized_shape[0], len(rates)
        self.weight, self.bias = own(original.weight, 1.0), own(original.bias, 0.0)
        self.exponents = nn.Linear(dim, terms).requires_grad_(False)
        # Shifts by a convolution, which compilers fuse with the ELU; an addition would be rounded on its own.
        self.shift = nn.Linear(terms, terms).requires_grad_(False)
        self.sum = nn.Linear(terms, dim).requires_grad_(False)
        self.exponents.weight.copy_(-rates[:, None].expand(terms, dim) / dim)
        self.exponents.bias.copy_(CUT_OFF - rates * original.eps)
        self.shift.weight.copy_(torch.eye(terms))
        self.shift.bias.fill_(-CUT_OFF)
        self.sum.weight.copy_(shares[:-1].expand(dim, terms))
        self.sum.bias.fill_(float(shares[-1] + shares[:-1].sum() * (1 - math.exp(-CUT_OFF))))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        below_zero = self.shift(self.exponents(x * x).relu())
        y: torch.Tensor = x * self.sum(functional.elu(below_zero))
        y = y if self.weight is None else y * self.weight
        return y if self.bias is None else y + self.bias


def own(parameter: Any, neutral: float) -> nn.Parameter | None:
    """A copy of a norm's parameter; None where it is absent or changes nothing."""
    if parameter is None or bool((parameter == neutral).all()):
        return None
    return nn.Parameter(parameter.detach().clone(), requires_grad=False)


def rebuilt_attention(attention: Any, **changes: Any) -> SurgeryAttention:
    """The same attention as our own module, with `changes` to its constructor's arguments."""
    kept = {"queries": getattr(attention, "queries", None)}
    return SurgeryAttention(attention, scale=float(attention.scale), **{**kept, **changes})


def copied(module: Any) -> Any:
    """A copy that shares nothing with the original."""
    return copy.deepcopy(module)
