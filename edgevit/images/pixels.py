"""From image files to the pixels a model sees: decoded, resized and cropped, uint8."""

from __future__ import annotations

import math
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from edgevit.errors import InputError
from edgevit.files import atomic_path
from edgevit.images.preprocessing import Preprocessing
from edgevit.images.sets import ImageSet
from edgevit.progress import Progress

MAX_UNREADABLE = 0.02
THREADS = 2
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
    shape = (*preprocessing.size, len(preprocessing.channels))
    kept: list[int] = []
    skipped = list(images.skipped)
    decode = partial(attempt, preprocessing=preprocessing)
    # Row after row rather than through a memory map: a full disk is then an OSError, not a SIGBUS.
    with atomic_path(out) as staging, staging.open("wb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PIL's remarks on metadata; set here because filters are global
        write_header(file, len(images.paths), shape)
        with ThreadPoolExecutor(THREADS) as pool:
            for index, result in enumerate(pool.map(decode, images.paths)):
                if isinstance(result, str):
                    skipped.append((images.paths[index], result))
                else:
                    file.write(np.ascontiguousarray(result).data)
                    kept.append(index)
                progress.advance(index + 1, len(images.paths))
        refuse_many_unreadable(images, skipped)
        file.seek(0)
        write_header(file, len(kept), shape)
    return replace(
        images,
        paths=tuple(images.paths[index] for index in kept),
        labels=tuple(images.labels[index] for index in kept) if images.labels else None,
        digests=tuple(images.digests[index] for index in kept),
        skipped=tuple(skipped),
    )


def write_header(file: IO[bytes], n: int, shape: tuple[int, ...]) -> None:
    """A .npy header; numpy pads it so that its length doesn't depend on `n`."""
    header = {"descr": "|u1", "fortran_order": False, "shape": (n, *shape)}
    np.lib.format.write_array_header_1_0(file, header)


def refuse_many_unreadable(images: ImageSet, skipped: list[tuple[Path, str]]) -> None:
    """Raise InputError where so many files are broken that something is wrong with the set."""
    total = len(images.paths) + len(images.skipped)
    if len(skipped) == total or len(skipped) > max(1, MAX_UNREADABLE * total):
        path, why = skipped[0]
        raise InputError(
            f"cannot read images from {images.source}",
            f"{len(skipped)} of {total} files are unreadable, the first is {path} ({why})",
            "Remove or replace them",
        )


def attempt(path: Path, preprocessing: Preprocessing) -> npt.NDArray[np.uint8] | str:
    """Pixels of one image, or why there are none."""
    try:
        return pixels_of(path, preprocessing)
    except UnidentifiedImageError:
        return "not an image"
    except MemoryError:
        return "too large to decode"
    except Exception as error:  # noqa: BLE001 - a damaged file makes a decoder raise nearly anything
        return " ".join(str(error).split()) or type(error).__name__


def pixels_of(path: Path, preprocessing: Preprocessing) -> npt.NDArray[np.uint8]:
    """One image as uint8 [height, width, channels]: upright, 8 bit, resized and cropped."""
    with Image.open(path) as opened:
        # PIL warns here and refuses only at twice its limit; no camera takes photographs of this size.
        if Image.MAX_IMAGE_PIXELS is not None and opened.width * opened.height > Image.MAX_IMAGE_PIXELS:
            raise ValueError(f"{opened.width}x{opened.height} pixels: may be a decompression bomb")
        image = eight_bit(upright(opened), MODES[preprocessing.channels])
    pixels = np.asarray(cropped(resized(image, preprocessing), preprocessing))
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    return pixels[..., ::-1] if preprocessing.channels == "BGR" else pixels


def upright(image: Image.Image) -> Image.Image:
    """Apply the camera's rotation tag: viewers and on-board cameras show the upright image, so it is what the
    board will see. timm's own dataset reader leaves such images on their side."""
    image.load()
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # noqa: BLE001 - a damaged tag says nothing about the pixels
        return image


def eight_bit(image: Image.Image, mode: str) -> Image.Image:
    """Convert to `mode`, "RGB" or "L". PIL clips 16-bit grey to white when converting, so it is scaled first."""
    if image.mode == "F":
        raise ValueError("floating-point pixels have no fixed range")
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
    """Cut the centre; where the image is smaller, fill up as timm does: the mean for "border", else black."""
    height, width = preprocessing.size
    left, top = margin(image.width, width), margin(image.height, height)
    inside = (max(0, left), max(0, top), min(image.width, left + width), min(image.height, top + height))
    part = image.crop(inside)
    if part.size == (width, height):
        return part
    fill = [round(255 * value) if preprocessing.crop_mode == "border" else 0 for value in preprocessing.mean]
    if preprocessing.channels == "BGR":
        fill.reverse()  # the image is still RGB here
    canvas = Image.new(image.mode, (width, height), tuple(fill) if len(fill) > 1 else fill[0])
    canvas.paste(part, (max(0, -left), max(0, -top)))
    return canvas


def margin(available: int, wanted: int) -> int:
    """Where a centred crop begins; negative where the image is smaller, as torchvision rounds it."""
    return round((available - wanted) / 2.0) if available >= wanted else -((wanted - available) // 2)
