"""Calibration images for a fit: some held out of it, and random crops of the others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from edgevit.errors import InputError

CHECK_SHARE = 0.25
FEWEST_IMAGES = 4


@dataclass(frozen=True)
class Split:
    """Images to fit on and images held out of the fit, normalised float32 [n, C, H, W], never validation.

    The teacher may see the same pictures at another size: `teacher_fit` and `teacher_check`.
    """

    fit: torch.Tensor
    check: torch.Tensor
    teacher_fit: torch.Tensor
    teacher_check: torch.Tensor


def split_images(
    inputs: torch.Tensor, teacher_inputs: torch.Tensor | None = None, *, copies: int = 0, seed: int = 0
) -> Split:
    """Hold a quarter of the images out; add `copies` random crops and flips of each of the others.

    Crops cover 50 to 100 % of the picture's area and are resampled bicubically to its size. Raises InputError
    for fewer than 4 images.
    """
    count = len(inputs)
    if count < FEWEST_IMAGES:
        raise InputError(
            "cannot fit on so few images", f"{count} given, {FEWEST_IMAGES} needed", "Give 64 or more"
        )
    teacher = inputs if teacher_inputs is None else teacher_inputs
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    held_out = max(1, round(count * CHECK_SHARE))
    check, fit = order[:held_out], order[held_out:]
    boxes = [
        random_box(seed + 1 + copy * count + image) for copy in range(copies) for image in range(len(fit))
    ]
    grown = with_crops(inputs[fit], boxes)
    same = teacher is inputs
    return Split(grown, inputs[check], grown if same else with_crops(teacher[fit], boxes), teacher[check])


def random_box(seed: int, smallest_area: float = 0.5) -> tuple[float, float, float, float, bool]:
    """(top, left, height, width) as shares of the picture, and whether to mirror it."""
    area, stretch, down, right, mirror = torch.rand(5, generator=torch.Generator().manual_seed(seed)).tolist()
    side = math.sqrt(smallest_area + (1 - smallest_area) * area)
    aspect = math.exp((2 * stretch - 1) * math.log(4 / 3) / 2)
    height, width = min(1.0, side * aspect), min(1.0, side / aspect)
    return (down * (1 - height), right * (1 - width), height, width, mirror < 0.5)


def with_crops(
    images: torch.Tensor, boxes: Sequence[tuple[float, float, float, float, bool]]
) -> torch.Tensor:
    """The images followed by one crop for each box; boxes go round the images in order."""
    crops = [crop(images[index % len(images)], *box) for index, box in enumerate(boxes)]
    return torch.cat([images, torch.stack(crops)]) if crops else images


def crop(
    image: torch.Tensor, top: float, left: float, height: float, width: float, mirror: bool
) -> torch.Tensor:
    """A box of an image [C, H, W], resampled to the image's size."""
    rows, columns = image.shape[-2:]
    first_row, first_column = int(top * rows), int(left * columns)
    box = image[
        None,
        :,
        first_row : first_row + max(1, round(height * rows)),
        first_column : first_column + max(1, round(width * columns)),
    ]
    resized = functional.interpolate(box, size=(rows, columns), mode="bicubic", antialias=True)[0]
    return resized.flip(-1) if mirror else resized
