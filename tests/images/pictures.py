"""Small image files for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def picture(seed: int = 0, size: tuple[int, int] = (40, 30), mode: str = "RGB") -> Image.Image:
    """A smooth seeded colour picture of (width, height)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).convert(mode)


def save(path: Path, seed: int = 0, size: tuple[int, int] = (40, 30)) -> Path:
    """Write a seeded picture, its folders too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(seed, size).save(path)
    return path


def class_folders(folder: Path, count: int, *, seed: int = 0) -> Path:
    """Write seeded noise, 44x40, into class0 to class3 in turn; returns the folder."""
    random = np.random.default_rng(seed)
    for index in range(count):
        path = folder / f"class{index % 4}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (40, 44, 3), dtype=np.uint8)).save(path)
    return folder


def truncated(path: Path) -> Path:
    """A JPEG cut off half-way: it opens, and fails only when its pixels are decoded."""
    picture(size=(200, 200)).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path
