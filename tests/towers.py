"""Small models of transformers' image classes, seeded: what a folder of each looks like, and what it gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from edgevit import torch_setup  # noqa: F401

SIDE = 64
WIDTH, HEADS, LAYERS = 32, 2, 2
USUAL: dict[str, Any] = {
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": 2 * WIDTH,
    "image_size": SIDE,
    "patch_size": 16,
}


@dataclass(frozen=True)
class Tower:
    """A class's configuration, the values that make it small, its outputs: name, kind, how they are had."""

    config: str
    values: dict[str, Any]
    gives: dict[str, tuple[str, Callable[[Any], torch.Tensor]]]
    extra: dict[str, Any] = field(default_factory=dict)


def embedding(had: Callable[[Any], torch.Tensor]) -> dict[str, tuple[str, Callable[[Any], torch.Tensor]]]:
    return {"embedding": ("embedding", had)}


FIRST_TOKEN = embedding(lambda found: found.last_hidden_state[:, 0])
POOLED = embedding(lambda found: found.pooler_output)
TOWERS: dict[str, Tower] = {
    "ViTModel": Tower("ViTConfig", USUAL, FIRST_TOKEN),
    "DeiTModel": Tower("DeiTConfig", USUAL, FIRST_TOKEN),
    "CLIPVisionModel": Tower("CLIPVisionConfig", USUAL, POOLED),
    "CLIPVisionModelWithProjection": Tower(
        "CLIPVisionConfig",
        USUAL | {"projection_dim": 24},
        {"image_embeds": ("embedding", lambda found: found.image_embeds)},
    ),
    "SiglipVisionModel": Tower("SiglipVisionConfig", USUAL, POOLED),
    "Dinov2Model": Tower("Dinov2Config", USUAL, POOLED),
    "Dinov2WithRegistersModel": Tower("Dinov2WithRegistersConfig", USUAL, POOLED),
    "DINOv3ViTModel": Tower("DINOv3ViTConfig", USUAL, POOLED),
    "BeitForSemanticSegmentation": Tower(
        "BeitConfig",
        USUAL
        | {
            "num_hidden_layers": 4,
            "out_indices": [1, 2, 3, 4],
            "auxiliary_channels": 8,
            "pool_scales": [1, 2],
        },
        {"logits": ("segmentation", lambda found: found.logits)},
        {"num_labels": 5},
    ),
    "SegformerForSemanticSegmentation": Tower(
        "SegformerConfig",
        {
            "image_size": SIDE,
            "hidden_sizes": [8, 16, 16, 24],
            "depths": [1] * 4,
            "num_attention_heads": [1, 2, 2, 2],
            "decoder_hidden_size": 16,
        },
        {"logits": ("segmentation", lambda found: found.logits)},
        {"num_labels": 5},
    ),
    "DPTForDepthEstimation": Tower(
        "DPTConfig",
        USUAL
        | {
            "num_hidden_layers": 4,
            "backbone_out_indices": [0, 1, 2, 3],
            "neck_hidden_sizes": [8, 8, 16, 16],
            "fusion_hidden_size": 16,
        },
        {"predicted_depth": ("depth", lambda found: found.predicted_depth)},
    ),
    "DepthAnythingForDepthEstimation": Tower(
        "DepthAnythingConfig",
        {
            "reassemble_hidden_size": WIDTH,
            "neck_hidden_sizes": [8, 8, 16, 16],
            "fusion_hidden_size": 16,
            "head_hidden_size": 8,
            "patch_size": 16,
        },
        {"predicted_depth": ("depth", lambda found: found.predicted_depth)},
        {"backbone": True},
    ),
    "YolosForObjectDetection": Tower(
        "YolosConfig",
        USUAL | {"image_size": [SIDE, SIDE], "num_detection_tokens": 6},
        {
            "pred_boxes": ("boxes", lambda found: found.pred_boxes),
            "logits": ("scores", lambda found: found.logits),
        },
        {"num_labels": 5},
    ),
}


def written(folder: Path, name: str) -> Any:
    """A folder as save_pretrained leaves it; the model in eval mode."""
    import transformers

    tower = TOWERS[name]
    torch.manual_seed(0)
    extra = dict(tower.extra)
    if extra.pop("backbone", False):
        names = {"out_features": ["stage1", "stage2", "stage3", "stage4"], "reshape_hidden_states": False}
        extra["backbone_config"] = transformers.Dinov2Config(**USUAL | {"num_hidden_layers": 4}, **names)
    config = getattr(transformers, tower.config)(**tower.values, **extra)
    model = getattr(transformers, name)(config).eval()
    with torch.no_grad():  # initial weights are so small that images hardly differ
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(2.0)
    model.save_pretrained(folder)
    size = {"height": SIDE, "width": SIDE}
    transformers.ViTImageProcessor(size=size).save_pretrained(folder)
    return model
