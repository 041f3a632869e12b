"""preprocessor_config.json of ViT and DeiT image processors as Preprocessing."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from edgevit.errors import InputError
from edgevit.preprocessing import Preprocessing

# PIL's numbers, which the files store.
RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
NAME = "preprocessor_config.json"


def preprocessing_of(
    folder: Path, config: dict[str, Any], own: tuple[int, int], notes: list[str]
) -> Preprocessing:
    """What the directory's image processor does; `own` is the model's (height, width).

    Without the file, the processors' defaults: resize to the model's size, bilinear, mean and deviation 0.5.
    Raises InputError where the processor's images don't have the model's size.
    """
    path = folder / NAME
    channels = int(config.get("num_channels", 3))
    if path.is_file():
        try:
            values = dict(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            why = f"not a JSON object ({error})"
            raise InputError(f"cannot read {path}", why, "Copy or download it again") from error
    else:
        values = {"size": {"height": own[0], "width": own[1]}}
        notes.append(
            f"no {NAME}: preprocessing assumed, {own[0]}x{own[1]} bilinear without crop, mean and deviation 0.5"
        )
    if not values.get("do_resize", True):
        notes.append(f"{NAME} doesn't resize: images are resized to {own[0]}x{own[1]}")
        values |= {"size": {"height": own[0], "width": own[1]}, "do_center_crop": False}
    size, resize_to, crop_mode = geometry(values, own)
    if size != own:
        raise InputError(
            f"cannot load {folder}",
            f"{NAME} gives {size[0]}x{size[1]} images and the model takes {own[0]}x{own[1]}",
            f"Correct the size in {NAME}",
        )
    mean, std = normalisation(values, channels)
    return Preprocessing(
        size=size,
        crop_pct=1.0 if resize_to is None else size[0] / resize_to,
        crop_mode=crop_mode,
        interpolation=RESAMPLING.get(values.get("resample", 2), "bilinear"),
        mean=mean,
        std=std,
        channels="L" if channels == 1 else "RGB",
        resize_to=resize_to,
    )


def geometry(values: dict[str, Any], own: tuple[int, int]) -> tuple[tuple[int, int], int | None, str]:
    """Final (height, width), side of the resize before a crop or None, and crop mode.

    A height and a width, or one number, ignore the aspect ratio ("squash"); `shortest_edge` keeps it.
    """
    size = values.get("size", own)
    edge = size.get("shortest_edge") if isinstance(size, dict) else None
    resized = (int(edge), int(edge)) if edge is not None else sides(size)
    mode = "squash" if edge is None else "center"
    if not values.get("do_center_crop", "crop_size" in values):
        return resized, None, mode
    crop = sides(values.get("crop_size", own))
    if crop == resized:
        return crop, None, mode
    return crop, min(resized), mode


def sides(value: Any) -> tuple[int, int]:
    """(height, width) of a number, a pair or a dict."""
    if isinstance(value, dict):
        return int(value["height"]), int(value["width"])
    if isinstance(value, list | tuple):
        return int(value[0]), int(value[1])
    return int(value), int(value)


def normalisation(values: dict[str, Any], channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation in units of 0..1, with the processor's rescaling folded in."""
    mean, std = [0.0], [1.0]
    if values.get("do_normalize", True):
        mean, std = (listed(values.get(f"image_{name}", 0.5)) for name in ("mean", "std"))
    factor = float(values.get("rescale_factor", 1 / 255)) if values.get("do_rescale", True) else 1.0
    scale = factor * 255
    if math.isclose(scale, 1.0, rel_tol=1e-6):
        scale = 1.0
    mean, std = (list(part) * channels if len(part) == 1 else list(part) for part in (mean, std))
    return tuple(value / scale for value in mean), tuple(value / scale for value in std)


def listed(value: Any) -> list[float]:
    """One number or several as a list."""
    return [float(item) for item in value] if isinstance(value, list | tuple) else [float(value)]
