"""From image files to the pixels a model sees: decoded, resized and cropped, uint8."""

from __future__ import annotations

import math
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from edgevit.errors import InputError
from edgevit.files import atomic_path
from edgevit.images.sets import ImageSet
from edgevit.preprocessing import Preprocessing
from edgevit.progress import Progress

MOST_UNREADABLE = 0.02
FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}
MODES = {"RGB": "RGB", "BGR": "RGB", "L": "L"}


def write_pixels(images: ImageSet, preprocessing: Preprocessing, out: Path, progress: Progress) -> ImageSet:
    """Write `out` (.npy, uint8 [n, height, width, channels]); return the set of the images that are in it.

    Files that can't be decoded are left out and named in `skipped`. Raises InputError when there are more than
    2 % of them, or nothing is left.
    """
    shape = (len(images.paths), *preprocessing.size, len(preprocessing.channels))
    kept, skipped = [], list(images.skipped)
    with atomic_path(out) as staging:
        pixels = np.lib.format.open_memmap(staging, mode="w+", dtype=np.uint8, shape=shape)
        with ThreadPoolExecutor(2) as pool:
            for index, result in enumerate(pool.map(lambda path: attempt(path, preprocessing), images.paths)):
                if isinstance(result, str):
                    skipped.append((images.paths[index], result))
                else:
                    pixels[len(kept)] = result
                    kept.append(index)
                progress.advance(index + 1, len(images.paths))
        pixels.flush()
        refuse_many_unreadable(images, skipped)
        if len(kept) < len(images.paths):
            whole = np.array(pixels[: len(kept)])
            del pixels
            np.save(staging, whole)
    return replace(
        images,
        paths=tuple(images.paths[index] for index in kept),
        labels=tuple(images.labels[index] for index in kept) if images.labels else None,
        digests=tuple(images.digests[index] for index in kept),
        skipped=tuple(skipped),
    )


def refuse_many_unreadable(images: ImageSet, skipped: list[tuple[Path, str]]) -> None:
    """A few broken files are life; many mean that something is wrong with the set."""
    if len(skipped) == len(images.paths) or len(skipped) > max(1, MOST_UNREADABLE * len(images.paths)):
        path, why = skipped[0]
        raise InputError(
            f"cannot read images from {images.source}",
            f"{len(skipped)} of {len(images.paths)} files are unreadable, the first is {path} ({why})",
            "Remove or replace them",
        )


def attempt(path: Path, preprocessing: Preprocessing) -> npt.NDArray[np.uint8] | str:
    """Pixels of one image, or why there are none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.filterwarnings("ignore", category=UserWarning)  # damaged metadata is not damaged pixels
            return pixels_of(path, preprocessing)
    except (
        OSError,
        SyntaxError,
        ValueError,
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ) as error:
        return " ".join(str(error).split()) or type(error).__name__


def pixels_of(path: Path, preprocessing: Preprocessing) -> npt.NDArray[np.uint8]:
    """One image as uint8 [height, width, channels]: upright, 8 bit, resized and cropped."""
    with Image.open(path) as opened:
        image = upright(opened, MODES[preprocessing.channels])
    pixels = np.asarray(cropped(resized(image, preprocessing), preprocessing))
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    return pixels[..., ::-1] if preprocessing.channels == "BGR" else pixels


def upright(image: Image.Image, mode: str) -> Image.Image:
    """Apply the camera's rotation tag (people see it applied) and convert to 8-bit `mode`.

    PIL clips 16-bit greyscale to white when converting, so it is scaled first.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        values: npt.NDArray[Any] = np.asarray(image).astype(np.float64)
        image = Image.fromarray((values / 257).round().clip(0, 255).astype(np.uint8))
    return image.convert(mode)


def resized(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """Scale as timm does: shorter side for "center", whole image for "squash", longer side for "border"."""
    height, width = preprocessing.resized_size
    filter_ = FILTERS[preprocessing.interpolation]
    if preprocessing.crop_mode == "squash":
        return image.resize((width, height), filter_)
    ratios = (image.height / height, image.width / width)
    if preprocessing.crop_mode == "center" and height == width:
        return image.resize(shorter_side(image.size, height), filter_)
    ratio = min(ratios) if preprocessing.crop_mode == "center" else max(ratios)
    return image.resize((round(image.width / ratio), round(image.height / ratio)), filter_)


def shorter_side(size: tuple[int, int], target: int) -> tuple[int, int]:
    """(width, height) with the shorter side `target`, the longer one rounded down as torchvision does."""
    width, height = size
    if width <= height:
        return target, math.floor(target * height / width)
    return math.floor(target * width / height), target


def cropped(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """Cut the centre; where the image is smaller, the rest is black, as torchvision pads."""
    height, width = preprocessing.size
    left, top = margin(image.width, width), margin(image.height, height)
    return image.crop((left, top, left + width, top + height))


def margin(available: int, wanted: int) -> int:
    """Where a centred crop begins; negative where the image is smaller, as torchvision rounds it."""
    return round((available - wanted) / 2.0) if available >= wanted else -((wanted - available) // 2)
