"""Models that give no classes: DeiT-Ti's embedding and its map of patch tokens, three untrained towers.

edgevit convert benchmarks/outputs/models.py:deit_map --calibration photos/ --validation others/ --target rk3588
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgevit import torch_setup  # noqa: F401
from edgevit.models import load_model

DATA = Path(os.environ.get("EDGEVIT_DATA", "../shared/data")).resolve()
WIDER = 2.0  # times an untrained tower's initial weights: as they are, all images are nearly one


def deit() -> Any:
    """DeiT-Ti as it was trained."""
    return load_model("deit_tiny_patch16_224", next((DATA / "deit-tiny").glob("*.safetensors")))


def deit_embedding() -> nn.Module:
    """DeiT-Ti's normalised class token, which its classifier reads."""
    loaded = deit()
    loaded.module.reset_classifier(0)
    return with_preprocessing(loaded.module, loaded.preprocessing)


class PatchMap(nn.Module):
    """A ViT's patch tokens after the last norm as a map [n, width, rows, columns]."""

    def __init__(self, vit: Any) -> None:
        super().__init__()
        self.vit = vit

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.vit.forward_features(images)[:, self.vit.num_prefix_tokens :]
        found: torch.Tensor = tokens.transpose(1, 2).unflatten(2, self.vit.patch_embed.grid_size)
        return found


def deit_map() -> nn.Module:
    """DeiT-Ti's patch tokens as a map."""
    loaded = deit()
    return with_preprocessing(PatchMap(loaded.module), loaded.preprocessing)


class Pooled(nn.Module):
    """The embedding of a transformers model."""

    def __init__(self, model: Any, key: str) -> None:
        super().__init__()
        self.model, self.key = model, key

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.model(pixel_values=images)[self.key]
        return found


def tower(name: str, config: str, key: str, **values: Any) -> nn.Module:
    """An untrained tower, seeded."""
    import transformers

    torch.manual_seed(0)
    model = getattr(transformers, name)(getattr(transformers, config)(image_size=224, **values)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(WIDER)
    module = Pooled(model, key)
    module.preprocessing = {"size": (224, 224), "mean": (0.5,) * 3, "std": (0.5,) * 3}  # type: ignore[assignment]
    return module


def dinov2_small() -> nn.Module:
    """DINOv2-S/14's shape."""
    values = {"hidden_size": 384, "num_attention_heads": 6, "patch_size": 14}
    return tower("Dinov2Model", "Dinov2Config", "pooler_output", **values)


def clip_b32() -> nn.Module:
    """CLIP-B/32's image side with its projection."""
    return tower("CLIPVisionModelWithProjection", "CLIPVisionConfig", "image_embeds", patch_size=32)


def siglip_b16() -> nn.Module:
    """SigLIP-B/16's image side."""
    return tower("SiglipVisionModel", "SiglipVisionConfig", "pooler_output", patch_size=16)


def with_preprocessing(module: nn.Module, preprocessing: Any) -> nn.Module:
    """The module, which says how its images are prepared."""
    module.preprocessing = preprocessing
    return module


# What each gives, and how many validation images it is measured on: the simulator takes seconds an image for the
# large ones.
MODELS: dict[str, tuple[Callable[[], nn.Module], str, int]] = {
    "deit_embedding": (deit_embedding, "embedding", 744),
    "deit_map": (deit_map, "dense", 200),
    "dinov2_small": (dinov2_small, "logits:embedding", 64),
    "clip_b32": (clip_b32, "logits:embedding", 64),
    "siglip_b16": (siglip_b16, "logits:embedding", 64),
}
