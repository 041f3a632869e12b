"""A tiny model in a user's file and pictures of three colours to learn from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

MODEL = """
import torch
from edgevit import torch_setup
from timm.models.vision_transformer import VisionTransformer

def tiny():
    torch.manual_seed(0)
    model = VisionTransformer(img_size=32, patch_size=16, embed_dim=32, depth=3, num_heads=2, num_classes=7)
    model.preprocessing = {"size": (32, 32), "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "crop_pct": 1.0}
    return model
"""
COLOURS = {"blue": (40, 60, 200), "green": (40, 190, 60), "red": (200, 50, 40)}


def write(folder: Path, each: int, seed: int = 0, classes: tuple[str, ...] = tuple(COLOURS)) -> Path:
    """Noisy pictures of one colour in a folder for each class."""
    random = np.random.default_rng(seed)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(each):
            colour = np.asarray(COLOURS.get(name, (120, 120, 120)))
            pixels = (colour + random.normal(0, 40, (36, 40, 3))).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A user's folder: model.py, train/ and test/."""
    (tmp_path / "model.py").write_text(MODEL)
    write(tmp_path / "train", 16)
    write(tmp_path / "test", 6, seed=1)
    return tmp_path
