"""Six small classifiers of other architectures than a plain ViT's, for images of 64 x 64 pixels.

edgevit convert benchmarks/small/models.py:pit --weights benchmarks/small/weights/pit.safetensors ...
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgevit import torch_setup  # noqa: F401

import timm  # isort: skip  # needs the line above
from timm.models.efficientformer import Attention, EfficientFormer  # isort: skip
from timm.models.pit import PoolingVisionTransformer  # isort: skip
from timm.models.swin_transformer import SwinTransformer  # isort: skip

sys.path.append(str(Path(__file__).parent.parent / "zoo"))
from handwritten import MobileViTPaper  # noqa: E402  # isort: skip

SIZE, CLASSES = 64, 10
PREPROCESSING = {"size": (SIZE, SIZE), "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "crop_pct": 1.0}


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
    """Patches of 8 x 8 pixels, a class token, post-norm blocks."""

    def __init__(self, dim: int = 96, heads: int = 3, depth: int = 6, patch: int = 8) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, dim, patch, patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.positions = nn.Parameter(0.02 * torch.randn(1, (SIZE // patch) ** 2 + 1, dim))
        self.blocks = nn.Sequential(*(PostNormBlock(dim, heads) for _ in range(depth)))
        self.head = nn.Linear(dim, CLASSES)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.patches(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_token.expand(x.shape[0], -1, -1), x], dim=1) + self.positions
        out: torch.Tensor = self.head(self.blocks(x)[:, 0])
        return out


def with_preprocessing(model: Any) -> nn.Module:
    """The model with what its images go through."""
    model.preprocessing = PREPROCESSING
    result: nn.Module = model
    return result


def textbook_vit() -> nn.Module:
    return with_preprocessing(TextbookViT())


def pit() -> nn.Module:
    return with_preprocessing(
        PoolingVisionTransformer(
            img_size=SIZE,
            patch_size=8,
            stride=4,
            stem_type="overlap",
            base_dims=(24, 24, 24),
            depth=(2, 3, 2),
            heads=(2, 4, 8),
            mlp_ratio=4,
            num_classes=CLASSES,
        )
    )


def swin() -> nn.Module:
    return with_preprocessing(
        SwinTransformer(
            img_size=SIZE,
            patch_size=2,
            embed_dim=32,
            depths=(2, 2, 2),
            num_heads=(2, 4, 8),
            window_size=4,
            num_classes=CLASSES,
        )
    )


def mobilevit() -> nn.Module:
    return with_preprocessing(timm.create_model("mobilevit_xxs", num_classes=CLASSES))


def mobilevit_paper() -> nn.Module:
    """MobileViT-XXS as its paper's repositories write it, which rknn-toolkit2 breaks in float too."""
    return with_preprocessing(MobileViTPaper(CLASSES))


def efficientformer() -> nn.Module:
    """With attention over the 2 x 2 places that a small image leaves of timm's 7 x 7."""
    model = EfficientFormer(depths=(1, 1, 2, 3), embed_dims=(24, 48, 96, 160), num_vit=1, num_classes=CLASSES)
    for part in model.modules():
        if isinstance(getattr(part, "token_mixer", None), Attention):
            part.token_mixer = Attention(160, resolution=SIZE // 32)
    return with_preprocessing(model)


MODELS = {
    each.__name__: each for each in (textbook_vit, pit, swin, mobilevit, mobilevit_paper, efficientformer)
}
