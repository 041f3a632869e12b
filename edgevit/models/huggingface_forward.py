"""ViT and DeiT classifiers as transformers defines them, written again as one plain function.

It shares nothing with timm, so that agreement between the two is evidence for the mapping.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
from torch.nn import functional as F


def forward(
    weights: Mapping[str, torch.Tensor],
    images: torch.Tensor,
    *,
    heads: int,
    eps: float,
    activation: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """Logits [n, classes], or what a classifier would read; `weights` under Hugging Face's names."""

    def linear(name: str, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], eps)

    projection = weights["embeddings.patch_embeddings.projection.weight"]
    bias = weights["embeddings.patch_embeddings.projection.bias"]
    patches = F.conv2d(images, projection, bias, stride=projection.shape[2:]).flatten(2).transpose(1, 2)
    names = ("embeddings.cls_token", "embeddings.distillation_token")
    prefix = [weights[name].expand(len(images), -1, -1) for name in names if name in weights]
    x = torch.cat([*prefix, patches], dim=1) + weights["embeddings.position_embeddings"]  # [n, tokens, width]
    for index in range(depth_of(weights)):
        layer = f"encoder.layer.{index}"
        y = norm(f"{layer}.layernorm_before", x)
        query, key, value = (
            linear(f"{layer}.attention.attention.{part}", y).view(*y.shape[:2], heads, -1).transpose(1, 2)
            for part in ("query", "key", "value")
        )
        scores = query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5  # [n, heads, tokens, tokens]
        mixed = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
        x = x + linear(f"{layer}.attention.output.dense", mixed)
        y = activation(linear(f"{layer}.intermediate.dense", norm(f"{layer}.layernorm_after", x)))
        x = x + linear(f"{layer}.output.dense", y)
    x = norm("layernorm", x)
    if "cls_classifier.weight" in weights:
        return (linear("cls_classifier", x[:, 0]) + linear("distillation_classifier", x[:, 1])) / 2
    return linear("classifier", x[:, 0]) if "classifier.weight" in weights else x[:, 0]


def depth_of(weights: Mapping[str, torch.Tensor]) -> int:
    """Number of encoder layers."""
    return len({match[1] for key in weights if (match := re.match(r"encoder\.layer\.(\d+)\.", key))})
