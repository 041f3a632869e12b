"""The resolution step: another input size with the crop that suits it, and what the targets make of the size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from edgevit.compression.any_size import STEP, at_size, takes
from edgevit.compression.budget import most_within
from edgevit.compression.resolution import (
    CROP_FACTORS,
    CropChoice,
    change_resolution,
    check_alignment,
    choose_crop,
    name,
    predict,
    resized_preprocessing,
)
from edgevit.compression.temperature import scale_attention, temperature
from edgevit.conversion.compression_stages import Made, Work, explain
from edgevit.errors import InputError
from edgevit.images import ImageSet, write_pixels
from edgevit.images.preprocessing import Preprocessing
from edgevit.metrics.acceptance import Acceptance
from edgevit.models import LoadedModel
from edgevit.progress import QUIET
from edgevit.request.compression import Auto, Size
from edgevit.run.step import Step
from edgevit.targets.profiles import Board

# `--resolution auto` goes no lower than this share of the model's own size.
SMALLEST_SHARE = 0.5


def resize(
    work: Work,
    wanted: Size | Auto,
    calibration: Step | None,
    images: Callable[[], ImageSet | None],
    acceptance: Acceptance,
) -> Made:
    """Change the input size; the crop ratio is chosen on the calibration images where there are any."""
    work.progress.stage("change the resolution")
    if calibration is None:
        if isinstance(wanted, str):
            raise InputError(
                "cannot choose --resolution auto",
                "there are no calibration images to choose by",
                "Give a size in pixels",
            )
        module = sized(work.start, wanted)
        preprocessing = resized_preprocessing(work.start.preprocessing, wanted)
        what = "the model's own crop ratio; there are no images to choose another by"
        return Made(module, preprocessing, label(wanted), what, details=grid(work, module))
    pictures = Pictures(work, calibration, images)
    if isinstance(wanted, str):
        return largest_saving(work, pictures, acceptance)
    tried = pictures.try_size(wanted, pictures.expected())
    return made(tried, work)


def sized(start: LoadedModel, size: Size) -> nn.Module:
    """A model at another size: a plain ViT with its positions resampled, any other as it can be had."""
    return change_resolution(start.module, size) if start.canonical else at_size(start, size)


def attention_factor(start: LoadedModel, changed: Any) -> float:
    """What a plain ViT's attention scores are multiplied by at another size; 1 for any other model."""
    if not start.canonical:
        return 1.0
    full: Any = start.module
    prefix = changed.num_prefix_tokens
    return temperature(changed.patch_embed.num_patches + prefix, full.patch_embed.num_patches + prefix)


@dataclass(frozen=True)
class Tried:
    """A model at another size: its crop, the factor on its attention scores, its outputs on all images."""

    module: nn.Module
    choice: CropChoice
    factor: float
    outputs: torch.Tensor

    @property
    def what(self) -> str:
        """One line for the report."""
        if self.factor == 1:
            return self.choice.what
        return f"{self.choice.what}; attention scores times {self.factor:.3f} for the other number of tokens"


@dataclass(frozen=True)
class Pictures:
    """Calibration images: as the full-size model sees them, and rendered anew for each crop tried."""

    work: Work
    calibration: Step
    images: Callable[[], ImageSet | None]

    def render(self, preprocessing: Preprocessing) -> npt.NDArray[np.uint8]:
        """Pixels uint8 [n, H, W, C]."""
        images = self.images()
        if images is None:
            raise InputError("cannot choose a crop", "there are no calibration images", "Pass --calibration")
        path = self.work.folder / "crop.npy"
        write_pixels(images, preprocessing, path, QUIET)
        pixels: npt.NDArray[np.uint8] = np.load(path)
        path.unlink()
        return pixels

    def expected(self) -> torch.Tensor:
        """The full-size model's outputs [n, classes]."""
        start = self.work.start
        return predict(start.module, start.preprocessing, np.load(self.calibration.path("pixels.npy")))

    def try_size(self, size: Size, expected: torch.Tensor) -> Tried:
        """The model at a size (height, width), the crop and the attention's temperature that suit it best."""
        start, outputs = self.work.start, self.work.original.outputs
        module = plain = sized(start, size)
        factor = attention_factor(start, plain)
        if factor != 1:
            module = scale_attention(plain, factor)
        choice = choose_crop(
            module,
            size,
            start.preprocessing,
            expected.numpy(),
            self.render,
            # Where an answer has places, they must stay where they are.
            factors=CROP_FACTORS if all(len(each.shape) < 2 for each in outputs.each) else (1.0,),
            outputs=outputs,
            progress=self.work.progress,
        )
        pixels = self.render(choice.preprocessing)
        found = predict(module, choice.preprocessing, pixels)
        if factor != 1:
            untouched = predict(plain, choice.preprocessing, pixels)
            if outputs.difference(untouched, expected).kl <= outputs.difference(found, expected).kl:
                return Tried(plain, choice, 1.0, untouched)
        return Tried(module, choice, factor, found)


def largest_saving(work: Work, pictures: Pictures, acceptance: Acceptance) -> Made:
    """The smallest size whose predicted drop is within the limit."""
    start, own = work.start, work.start.preprocessing.size
    if start.canonical:
        vit: Any = start.module
        sizes = smaller_sizes(own, tuple(vit.patch_embed.patch_size))
    else:
        sizes = [size for size in smaller_sizes(own, STEP) if takes(start, size)]
    expected = pictures.expected()

    def attempt(size: Size) -> tuple[Tried, float]:
        tried = pictures.try_size(size, expected)
        return tried, work.original.outputs.expected_drop(tried.outputs, expected)

    _, best, tried = most_within(sizes, attempt, acceptance)
    why = explain([(name(size), drop) for size, drop in tried], acceptance, "px", len(expected))
    if best is None:
        return Made(start.module, start.preprocessing, label(own), why, (why,))
    return made(best, work, why)


def smaller_sizes(size: Size, patch: Size) -> list[Size]:
    """Sizes of the same shape, one patch of the shorter side less each time, down to half."""
    rows, columns = size[0] // patch[0], size[1] // patch[1]
    short = min(rows, columns)
    grids = [
        (round(rows * side / short), round(columns * side / short))
        for side in range(short - 1, int(short * SMALLEST_SHARE) - 1, -1)
        if side > 0
    ]
    return [(grid[0] * patch[0], grid[1] * patch[1]) for grid in grids]


def made(tried: Tried, work: Work, *notes: str) -> Made:
    """The record of a change of size."""
    choice = tried.choice
    details = {
        "attention_factor": tried.factor,
        "tried": [
            {"crop_ratio": crop, "kl": kl, "agreement": agreement} for crop, kl, agreement in choice.tried
        ],
        "images": choice.images,
        **grid(work, tried.module),
    }
    return Made(
        tried.module, choice.preprocessing, label(choice.preprocessing.size), tried.what, notes, details
    )


def label(size: Size) -> str:
    """What a table calls the step: width x height of a picture is the other way round."""
    return f"{name(size)} px"


def grid(work: Work, module: nn.Module) -> dict[str, Any]:
    """How a plain ViT makes tokens of pixels: what `advice` needs; nothing of another model."""
    if not work.start.canonical:
        return {}
    vit: Any = module
    return {"grid": {"patch": list(vit.patch_embed.patch_size), "prefix": int(vit.num_prefix_tokens)}}


def advice(details: Mapping[str, Any], size: Size, targets: Sequence[Board]) -> list[str]:
    """Neighbouring sizes that suit a target's blocks better, by the details of a change of size."""
    found = []
    for board in targets:
        if board.npu is None or "grid" not in details:
            continue
        alignment = check_alignment(
            size,
            tuple(details["grid"]["patch"]),
            details["grid"]["prefix"],
            token_alignment=board.npu.token_alignment,
            transpose_alignment=board.npu.transpose_alignment,
        )
        found += [f"{board.id}: {sentence}" for sentence in alignment.advice]
    return found
