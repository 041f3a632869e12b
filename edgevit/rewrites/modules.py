"""The modules rewrites put in place of timm's: same parameters and names, other order of computation."""

from __future__ import annotations

import copy
import math
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
    """Self-attention with the scale folded into q; [batch, tokens, dim] -> [batch, queries or tokens, dim].

    `queries`: only the first so many tokens ask. `padding`: of all `tokens`, the last so many are copies of
    the first, which must not count. `by_norm`: softmax without a softmax kernel (see `softmax_by_norm`).
    Parameters keep timm's names and layout (qkv holds q, k and v rows), so that what reads weights still can.
    """

    def __init__(
        self,
        original: Any,
        *,
        scale: float,
        queries: int | None = None,
        padding: int = 0,
        tokens: int = 0,
        by_norm: bool = False,
    ) -> None:
        super().__init__()
        self.num_heads, self.head_dim = original.num_heads, original.head_dim
        self.attn_dim, self.scale, self.queries = original.attn_dim, scale, queries
        self.padding, self.tokens, self.by_norm = padding, tokens, by_norm
        self.qkv, self.proj = copied(original.qkv), copied(original.proj)
        self.q_norm, self.k_norm = copied(original.q_norm), copied(original.k_norm)
        self.norm, self.gate = copied(original.norm), copied(original.gate)
        self.register_buffer("share", None, persistent=False)
        self.share: torch.Tensor | None
        if padding:
            # How much each key counts: copies not at all, or each its share of the one token they are.
            share = torch.ones(tokens).to(self.qkv.weight)
            share[tokens - padding :] = 0.0 if by_norm else 1.0 / (1 + padding)
            share[0] = 1.0 if by_norm else 1.0 / (1 + padding)
            self.share = share if by_norm else share.log()

    def forward(self, x: torch.Tensor, attn_mask: None = None, is_causal: bool = False) -> torch.Tensor:
        if attn_mask is not None or is_causal:
            raise ValueError("a rewritten attention takes no mask")
        q, k, v = self.heads(x)
        out = softmax_by_norm(q, k, v, self.share) if self.by_norm else softmax(q, k, v, self.share)
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


def softmax(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, log_share: torch.Tensor | None
) -> torch.Tensor:
    """softmax(q kᵀ + log_share) v; q, k, v [batch, heads, tokens, head_dim], log_share [keys].

    n copies of a key, each shifted by -log n, weigh what one key does. The shift is small, unlike a mask of
    minus infinity, so it costs int8 scores no resolution.
    """
    scores = q @ k.transpose(-2, -1)
    if log_share is not None:
        scores = scores + log_share
    return scores.softmax(dim=-1) @ v


def softmax_by_norm(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, key_mask: torch.Tensor | None
) -> torch.Tensor:
    """softmax(q kᵀ) v without softmax, exponential, division or reduction kernels.

    exp(x) = elu(x) + 1 for x <= 0, and dividing positive numbers by their sum is an L1 norm, which the unit for
    LayerNorm computes. (An L2 norm and a square after exp(s/2) do as well, with one operation more.)
    `key_mask` [keys] is 0 for keys to leave out, else 1. q, k, v are [batch, heads, tokens, head_dim]; scores
    are laid out [batch·heads, queries, 1, keys], so that the maximum is a global max-pool, then
    [batch·heads, keys, 1, queries], so that the norm runs over channels.
    """
    batch = q.shape[0]
    q, k, v = q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)
    scores = (q @ k.transpose(1, 2)).unsqueeze(2)
    below_zero = scores - functional.adaptive_max_pool2d(scores, 1)
    exponential = functional.elu(below_zero).transpose(1, 3)
    if key_mask is None:
        exponential = exponential + 1.0
    else:
        # key_mask · elu + key_mask: one batch normalisation does the +1 and the mask.
        zero, one = torch.zeros_like(key_mask), torch.ones_like(key_mask)
        exponential = functional.batch_norm(exponential, zero, one, key_mask, key_mask, eps=0.0)
    probabilities = functional.normalize(exponential, p=1.0, dim=1)
    weighted: torch.Tensor = probabilities.squeeze(2).transpose(1, 2) @ v
    return weighted.reshape(batch, -1, *weighted.shape[1:])


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


class PadTokens(nn.Module):
    """Append `count` copies of the first token: [batch, tokens, dim] -> [batch, tokens + count, dim]."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, x[:, :1].expand(-1, self.count, -1)], dim=1)


def rebuilt_attention(attention: Any, **changes: Any) -> SurgeryAttention:
    """The same attention as our own module, with `changes` to its constructor's arguments."""
    kept = {name: getattr(attention, name, None) for name in ("queries", "padding", "tokens", "by_norm")}
    known = {name: value for name, value in kept.items() if value is not None}
    return SurgeryAttention(attention, scale=float(attention.scale), **{**known, **changes})


def copied(module: Any) -> Any:
    """A copy that shares nothing with the original."""
    return copy.deepcopy(module)
