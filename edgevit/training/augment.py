"""Random views of a few images, for a student and its teacher alike."""

from __future__ import annotations

import torch
from torch.nn import functional

SMALLEST_AREA = 0.35
MIXED_SHARE = 0.25


def random_views(images: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """`count` views [count, C, H, W] of random images [n, C, H, W].

    A view is a random box of at least a third of the picture, mirrored half the time; a quarter of the views
    are mixed with another one, as a teacher that sees the same mixture allows (Beyer et al. 2022).
    """
    chosen = torch.randint(len(images), (count,), generator=generator)
    boxes = torch.stack([random_box(generator) for _ in range(count)]).to(images.device)
    share = torch.rand(count, 1, 1, 1, generator=generator)
    share = torch.where(torch.rand(count, 1, 1, 1, generator=generator) < MIXED_SHARE, share, 1.0)
    share, partner = share.to(images.device), torch.randperm(count, generator=generator).to(images.device)
    grid = functional.affine_grid(boxes, [count, *images.shape[1:]], align_corners=False)
    views = functional.grid_sample(
        images[chosen.to(images.device)], grid, mode="bicubic", padding_mode="reflection", align_corners=False
    )
    return share * views + (1 - share) * views[partner]


def at_size(views: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """The same views resampled to (height, width), as a preprocessing of that size would show them."""
    if tuple(views.shape[-2:]) == tuple(size):
        return views
    return functional.interpolate(views, size=size, mode="bicubic", antialias=True, align_corners=False)


def random_box(generator: torch.Generator) -> torch.Tensor:
    """An affine map [2, 3] of the unit square onto a random box in it, perhaps mirrored."""
    area, stretch, down, right, mirror = torch.rand(5, generator=generator).tolist()
    side = (SMALLEST_AREA + (1 - SMALLEST_AREA) * area) ** 0.5
    aspect = (4 / 3) ** (stretch - 0.5)
    height, width = min(1.0, side * aspect), min(1.0, side / aspect)
    top, left = (2 * down - 1) * (1 - height), (2 * right - 1) * (1 - width)
    return torch.tensor([[-width if mirror < 0.5 else width, 0.0, left], [0.0, height, top]])
