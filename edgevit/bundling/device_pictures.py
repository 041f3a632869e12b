"""Pictures on a device as edgevit prepared them, by Pillow or OpenCV. Python 3.7, numpy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

if __package__:
    from edgevit.backends.board_runtime import Values

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff")


class Stop(Exception):
    """A line for the user."""


def listed(given: list[str]) -> Iterator[str]:
    """Pictures, and those in folders, by name."""
    for each in given:
        path = Path(each)
        if path.is_dir():
            yield from sorted(str(one) for one in path.rglob("*") if one.suffix.lower() in SUFFIXES)
        else:
            yield each


def read(path: str) -> Any:
    """Pixels uint8 RGB [height, width, 3], upright."""
    try:
        from PIL import Image, ImageOps
    except ImportError:
        try:
            import cv2
        except ImportError:
            raise Stop("pictures need Pillow or OpenCV: pip install pillow") from None
        found = cv2.imread(path, cv2.IMREAD_COLOR)
        if found is None:
            raise Stop("not a picture, or no such file") from None
        return np.ascontiguousarray(found[..., ::-1])
    with Image.open(path) as opened_picture:
        return np.asarray(ImageOps.exif_transpose(opened_picture).convert("RGB"))


def fitted(pixels: Any, wanted: Values) -> Any:
    """RGB pixels as the model takes them: resized, cropped, in its order of channels."""
    height, width = wanted["size"]
    to_height, to_width = wanted["resize"]
    have_height, have_width = pixels.shape[:2]
    if wanted["channels"] == "L":  # in Pillow's whole numbers
        weights = np.asarray([19595, 38470, 7471], np.int64)
        pixels = ((pixels[..., :3].astype(np.int64) @ weights + 0x8000) >> 16).astype(np.uint8)
    if wanted["crop_mode"] == "squash":
        size = (to_width, to_height)
    elif wanted["crop_mode"] == "center" and to_height == to_width:
        short = min(have_height, have_width)
        size = (to_width * have_width // short, to_height * have_height // short)
    else:
        ratios = (have_height / to_height, have_width / to_width)
        ratio = min(ratios) if wanted["crop_mode"] == "center" else max(ratios)
        size = (round(have_width / ratio), round(have_height / ratio))
    pixels = resized(pixels, size, wanted["interpolation"])
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    top, left = margin(pixels.shape[0], height), margin(pixels.shape[1], width)
    canvas = np.zeros((height, width, pixels.shape[2]), np.uint8)
    reverse = wanted["channels"] == "BGR"
    if wanted["crop_mode"] == "border":
        fill = [round(255 * value) for value in wanted["mean"]]
        canvas[:] = fill[::-1] if reverse else fill
    inside = pixels[max(0, top) : max(0, top) + height, max(0, left) : max(0, left) + width]
    down, right = max(0, -top), max(0, -left)
    canvas[down : down + inside.shape[0], right : right + inside.shape[1]] = inside
    return np.ascontiguousarray(canvas[..., ::-1] if reverse else canvas)


def margin(available: int, wanted: int) -> int:
    """Where a centred crop begins; negative where the picture is smaller."""
    return round((available - wanted) / 2.0) if available >= wanted else -((wanted - available) // 2)


def resized(pixels: Any, size: Any, interpolation: str) -> Any:
    """Pixels at (width, height): by Pillow as the model was measured, by OpenCV's nearest way otherwise."""
    try:
        from PIL import Image
    except ImportError:
        import cv2

        smaller = size[0] < pixels.shape[1]
        ways = {"nearest": cv2.INTER_NEAREST, "bilinear": cv2.INTER_LINEAR}
        way = cv2.INTER_AREA if smaller else ways.get(interpolation, cv2.INTER_CUBIC)
        return cv2.resize(pixels, size, interpolation=way)
    filters = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}
    return np.asarray(Image.fromarray(pixels).resize(size, filters[interpolation]))
