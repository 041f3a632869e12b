"""What turns a photograph into the numbers a model was trained on. It travels with the model."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """Resize, crop and normalisation of one model's input.

    `size` is (height, width) in pixels; `mean` and `std` are in units of 0..1, one per channel, in the order
    of `channels`. `resize_to` is the shorter side in pixels before the crop where a model states it itself
    (torchvision, Hugging Face); otherwise it is floor(size / crop_pct), timm's rule.
    """

    size: tuple[int, int]
    crop_pct: float = 0.875
    crop_mode: str = "center"
    interpolation: str = "bicubic"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    channels: str = "RGB"
    resize_to: int | None = None

    @property
    def resized_size(self) -> tuple[int, int]:
        """(height, width) that the image is scaled to cover before the crop."""
        if self.resize_to is not None:
            return (self.resize_to, self.resize_to)
        return (math.floor(self.size[0] / self.crop_pct), math.floor(self.size[1] / self.crop_pct))

    def describe(self) -> str:
        """Everything in one line for people."""
        height, width = self.size
        fit = {"squash": "squashed", "border": "fitted with a border"}.get(self.crop_mode)
        if fit is None:
            kept = self.size[0] / self.resize_to if self.resize_to is not None else self.crop_pct
            fit = "whole shorter side" if kept >= 1 else f"centre crop of {100 * kept:.4g} %"
        mean, std = (" ".join(f"{each:.4g}" for each in values) for values in (self.mean, self.std))
        return f"{height}x{width} {self.channels}, {fit}, {self.interpolation}, mean {mean}, deviation {std}"

    def normalise(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Pixels uint8 [n, height, width, channels] to model input float32 [n, channels, height, width]."""
        mean = np.asarray(self.mean, dtype=np.float32) * np.float32(255)
        std = np.asarray(self.std, dtype=np.float32) * np.float32(255)
        normalised = (pixels.astype(np.float32) - mean) / std
        return np.ascontiguousarray(normalised.transpose(0, 3, 1, 2))

    def to_json(self) -> dict[str, Any]:
        """Plain values for a manifest."""
        return asdict(self)

    def for_programs(self) -> dict[str, Any]:
        """All that a program must do to an image, in plain values."""
        return {
            "size": list(self.size),
            "channels": self.channels,
            "resize": list(self.resized_size),
            "crop_mode": self.crop_mode,
            "interpolation": self.interpolation,
            "mean": list(self.mean),
            "std": list(self.std),
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Preprocessing:
        """The inverse of `to_json`."""
        tuples = {key: tuple(values[key]) for key in ("size", "mean", "std")}
        return cls(**{**values, **tuples})
