"""The ten models of the benchmark, untrained: what a compiler makes of a graph doesn't depend on its weights.

Residual scales that start near zero are set to 1, or exporters fold whole branches away.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from edgevit import torch_setup  # noqa: F401

import timm  # isort: skip  # needs the line above


def untrained(name: str, **options: Any) -> nn.Module:
    """A timm model with seeded random weights."""
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(name, pretrained=False, **options)
    with torch.no_grad():
        for part, values in model.named_parameters():
            if part.rpartition(".")[2] in ("gamma", "gamma_1", "gamma_2", "scale"):
                values.fill_(1.0)
    return model.eval()


def deit_tiny() -> nn.Module:
    return untrained("deit_tiny_patch16_224")


def deit_small() -> nn.Module:
    return untrained("deit_small_patch16_224")


def vit_base_16() -> nn.Module:
    return untrained("vit_base_patch16_224")


def vit_base_32() -> nn.Module:
    return untrained("vit_base_patch32_224")


def vit_small_14() -> nn.Module:
    return untrained("vit_small_patch14_dinov2", img_size=224, num_classes=1000)


def vit_tiny_384() -> nn.Module:
    return untrained("vit_tiny_patch16_384")


def swin_tiny() -> nn.Module:
    return untrained("swin_tiny_patch4_window7_224")


def mobilevit_small() -> nn.Module:
    return untrained("mobilevit_s")


def levit_128s() -> nn.Module:
    return untrained("levit_128s")


def efficientformer_l1() -> nn.Module:
    return untrained("efficientformer_l1")


# Function above -> the name people know it by.
MODELS = {
    "deit_tiny": "DeiT-Ti",
    "deit_small": "DeiT-S",
    "vit_base_16": "ViT-B/16",
    "vit_base_32": "ViT-B/32",
    "vit_small_14": "ViT-S/14",
    "vit_tiny_384": "ViT-Ti/16 at 384",
    "swin_tiny": "Swin-T",
    "mobilevit_small": "MobileViT-S",
    "levit_128s": "LeViT-128s",
    "efficientformer_l1": "EfficientFormer-L1",
}
