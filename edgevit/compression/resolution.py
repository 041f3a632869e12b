"""Another input size: position embedding, patch grid and preprocessing changed together. Lossy, so measured."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from edgevit import torch_setup  # noqa: F401
from edgevit.errors import InputError
from edgevit.images.preprocessing import Preprocessing
from edgevit.models.outputs import rows_of
from edgevit.outputs.output import CLASS_SCORES, Outputs
from edgevit.progress import QUIET, Progress
from edgevit.rewrites.canonical import require_canonical

Size = tuple[int, int]
Render = Callable[[Preprocessing], npt.NDArray[np.uint8]]

# Multiples of the model's own crop ratio tried for a new size; the model's own comes first and wins ties.
CROP_FACTORS = (1.0, 0.86, 0.93, 1.05)
BATCH = 16


@dataclass(frozen=True)
class CropChoice:
    """The crop ratio that keeps most of the full-resolution model's behaviour, and every ratio tried.

    `tried` holds (crop ratio, KL divergence in nats, agreement of predictions 0..1) in the order tried.
    """

    preprocessing: Preprocessing
    tried: tuple[tuple[float, float, float], ...]
    images: int

    @property
    def what(self) -> str:
        """One line for the report."""
        chosen = ratio(self.preprocessing)
        if len(self.tried) == 1:
            return f"crop ratio {chosen:.3f}, the model's own"
        return (
            f"crop ratio {chosen:.3f}, of {len(self.tried)} by KL divergence to the full-resolution model on "
            f"{self.images} images (the model's own unless another is better by a standard error)"
        )


def change_resolution(model: nn.Module, size: Size) -> nn.Module:
    """A copy of a canonical ViT that takes images of `size` (height, width) in pixels.

    Position embeddings are resampled bicubically with antialiasing; those of prefix tokens are kept. Raises
    InputError when the patch doesn't divide `size`, or for a part that isn't understood.
    """
    vit: Any = copy.deepcopy(require_canonical(model, "a change of resolution"))
    stem = vit.patch_embed
    check_size(size, stem.patch_size)
    old_grid = tuple(stem.grid_size)
    stem.img_size, stem.grid_size, stem.num_patches = stem._init_img_size(size)
    if vit.pos_embed is not None:
        prefix = 0 if vit.no_embed_class else vit.num_prefix_tokens
        resampled = resample_positions(vit.pos_embed.detach(), old_grid, tuple(stem.grid_size), prefix)
        vit.pos_embed = nn.Parameter(resampled, requires_grad=vit.pos_embed.requires_grad)
    smaller: nn.Module = vit
    return smaller


def resample_positions(embedding: torch.Tensor, old: Size, new: Size, prefix: int) -> torch.Tensor:
    """Position embedding [1, prefix + old rows · columns, dim] resampled to the grid `new` (rows, columns)."""
    if old == new:
        return embedding
    kept, grid = embedding[:, :prefix], embedding[:, prefix:]
    return torch.cat([kept, resample_tokens(grid, old, new)], dim=1)


def resample_tokens(tokens: torch.Tensor, old: Size, new: Size) -> torch.Tensor:
    """Patch tokens [n, rows · columns, dim] of the grid `old`, bicubic with antialiasing, on the grid `new`."""
    if old == new:
        return tokens
    planes = tokens.reshape(len(tokens), *old, -1).permute(0, 3, 1, 2)
    planes = functional.interpolate(planes, size=new, mode="bicubic", antialias=True, align_corners=False)
    return planes.flatten(2).transpose(1, 2)


def check_size(size: Size, patch: Size) -> None:
    """Raises InputError when the patch (height, width) doesn't divide `size`, naming the two nearest sizes."""
    for pixels, side, name in zip(size, patch, ("height", "width"), strict=True):
        if pixels < side or pixels % side:
            below, above = nearest_sizes(pixels, side)
            asked = f"{size[0]} px" if size[0] == size[1] else f"{size[0]}x{size[1]} px"
            which = "" if size[0] == size[1] else f" {name}"
            raise InputError(
                f"cannot change the resolution to {asked}",
                f"{pixels} is not a multiple of patch {name if which else 'size'} {side}",
                f"Use{which} {below} or {above}" if below else f"Use{which} {above}",
            )


def nearest_sizes(pixels: int, patch: int) -> Size:
    """The multiples of the patch just below and above; below is 0 where there is none."""
    below = pixels // patch * patch
    return below, below + patch


def resized_preprocessing(
    preprocessing: Preprocessing, size: Size, crop_factor: float = 1.0
) -> Preprocessing:
    """Preprocessing for a new size; `crop_factor` multiplies the share of the picture that is kept.

    A model that states its shorter side in pixels keeps its ratio of that side to the crop.
    """
    crop = min(1.0, ratio(preprocessing) * crop_factor)
    if preprocessing.resize_to is None:
        return replace(preprocessing, size=size, crop_pct=crop)
    # The larger side must still fit inside the resized picture.
    return replace(preprocessing, size=size, resize_to=max(max(size), round(min(size) / crop)))


def ratio(preprocessing: Preprocessing) -> float:
    """The share of the shorter side that the crop keeps."""
    if preprocessing.resize_to is None:
        return preprocessing.crop_pct
    return min(preprocessing.size) / preprocessing.resize_to


def choose_crop(
    model: nn.Module,
    size: Size,
    preprocessing: Preprocessing,
    reference_outputs: npt.NDArray[np.float32],
    render: Render,
    *,
    factors: Sequence[float] = CROP_FACTORS,
    outputs: Outputs = CLASS_SCORES,
    progress: Progress = QUIET,
) -> CropChoice:
    """The crop ratio at which `model`, already at its new `size`, agrees best with the full-resolution model.

    `preprocessing` is the full-resolution one, `reference_outputs` [n, classes] what that model says on the
    same images, `render` decodes them: pixels uint8 [n, H, W, C]. Objects seen smaller than in training cost
    accuracy, and so does a border cut off (Touvron et al. 2019); which weighs more is measured. A ratio other
    than the model's own must win by more than one standard error, so that noise doesn't choose.
    """
    options = list(dict.fromkeys(resized_preprocessing(preprocessing, size, factor) for factor in factors))
    divergences, agreements = [], []
    for done, option in enumerate(options):
        found = predict(model, option, render(option))
        pairs = zip(found, reference_outputs, strict=True)
        divergences.append(np.array([outputs.difference(a[None], b[None]).kl for a, b in pairs]))
        agreements.append(outputs.difference(found, reference_outputs).agreement)
        progress.advance(done + 1, len(options), f"crop ratio {ratio(option):.3f}")
    best = 0
    for index in range(1, len(options)):
        gain = divergences[best] - divergences[index]
        if float(gain.mean()) > float(gain.std(ddof=1)) / math.sqrt(max(1, len(gain))):
            best = index
    tried = tuple(
        (ratio(option), float(values.mean()), agreement)
        for option, values, agreement in zip(options, divergences, agreements, strict=True)
    )
    return CropChoice(options[best], tried, len(reference_outputs))


@torch.inference_mode()
def predict(model: nn.Module, preprocessing: Preprocessing, pixels: npt.NDArray[np.uint8]) -> torch.Tensor:
    """Outputs, rows [n, values] float32, on pixels uint8 [n, H, W, C], in batches."""
    starts = range(0, len(pixels), BATCH)
    batches = (torch.from_numpy(preprocessing.normalise(pixels[i : i + BATCH])) for i in starts)
    return torch.cat([rows_of(model(batch)) for batch in batches])


@dataclass(frozen=True)
class Alignment:
    """What a size costs in whole blocks of tokens, and the neighbours that use the blocks better.

    `computed` is `tokens` rounded up to the target's block. `advice` holds sentences for the user.
    """

    tokens: int
    computed: int
    advice: tuple[str, ...]


def check_alignment(
    size: Size, patch: Size, prefix_tokens: int, *, token_alignment: int = 1, transpose_alignment: int = 1
) -> Alignment:
    """Advice on a size (height, width) for a target that computes tokens in blocks.

    `token_alignment` is the block; off `transpose_alignment` some targets move transposes to the CPU.
    Neighbours are one patch away in height, width or both.
    """

    def tokens_of(size: Size) -> int:
        return (size[0] // patch[0]) * (size[1] // patch[1]) + prefix_tokens

    def computed(size: Size) -> int:
        return math.ceil(tokens_of(size) / token_alignment) * token_alignment

    check_size(size, patch)
    steps = [(rows, columns) for rows in (-1, 0, 1) for columns in (-1, 0, 1) if (rows, columns) != (0, 0)]
    near = [(size[0] + rows * patch[0], size[1] + columns * patch[1]) for rows, columns in steps]
    near = [other for other in near if min(other) > 0]
    own, tokens = computed(size), tokens_of(size)
    advice = []
    richer = [other for other in near if computed(other) == own and tokens_of(other) > tokens]
    cheaper = [other for other in near if computed(other) < own and tokens_of(other) >= 0.95 * tokens]
    if cheaper and token_alignment > 1:
        best = max(cheaper, key=lambda other: (-computed(other), tokens_of(other)))
        advice.append(f"{name(best)} computes {computed(best)} tokens instead of {own} and loses few pixels")
    if richer:
        best = max(richer, key=tokens_of)
        advice.append(f"{name(best)} costs the same {own} tokens and sees more pixels")
    if tokens % transpose_alignment:
        aligned = [other for other in near if tokens_of(other) % transpose_alignment == 0]
        text = f"{tokens} tokens are not a multiple of {transpose_alignment}: transposes leave the NPU"
        if aligned:
            best = min(aligned, key=lambda other: abs(tokens_of(other) - tokens))
            text += f"; {name(best)} has {tokens_of(best)}"
        advice.append(text)
    return Alignment(tokens, own, tuple(advice))


def name(size: Size) -> str:
    """A size as people write it, height first."""
    return f"{size[0]}x{size[1]}"
