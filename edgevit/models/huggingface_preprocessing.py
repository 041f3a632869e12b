"""preprocessor_config.json of ViT and DeiT image processors as Preprocessing."""

from __future__ import annotations

import math
from pathlib import Path

from edgevit.errors import InputError
from edgevit.images.preprocessing import Preprocessing
from edgevit.models.huggingface_config import (
    CONFIG,
    PREPROCESSOR,
    Preprocessor,
    Size,
    invalid,
    read,
    read_json,
)

# PIL's numbers, which the files store.
RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}


def preprocessing_of(folder: Path, channels: int, own: tuple[int, int], notes: list[str]) -> Preprocessing:
    """What the directory's image processor does; `own` is the model's (height, width).

    Without the file, the processors' defaults: resize to the model's size, bilinear, mean and deviation 0.5.
    Raises InputError where the file isn't valid or its images don't have the model's size.
    """
    kept = recorded(folder)
    if kept is not None:
        return kept
    path = folder / PREPROCESSOR
    whole = Size(height=own[0], width=own[1])
    if path.is_file():
        values = read(folder, PREPROCESSOR, Preprocessor)
    else:
        values = Preprocessor.model_validate({"size": whole})
        notes.append(
            f"no {PREPROCESSOR}: preprocessing assumed, {own[0]}x{own[1]} bilinear without crop, "
            "mean and deviation 0.5"
        )
    return preprocessing_from(values, path, channels, own, notes)


def recorded(folder: Path) -> Preprocessing | None:
    """What edgevit itself wrote into a directory's configuration; None where it did not. Raises InputError."""
    own = read_json(folder, CONFIG).get("edgevit") if (folder / CONFIG).is_file() else None
    if not isinstance(own, dict) or not isinstance(own.get("preprocessing"), dict):
        return None
    try:
        return Preprocessing.from_json(own["preprocessing"])
    except (TypeError, ValueError, KeyError) as error:
        why = f"the preprocessing in its {CONFIG} is not valid ({type(error).__name__})"
        raise InputError(f"cannot load {folder}", why, "Copy it again") from None


def preprocessing_from(
    values: Preprocessor, path: Path, channels: int, own: tuple[int, int], notes: list[str]
) -> Preprocessing:
    """What an image processor of these values does; `path` is where they are from, for messages."""
    whole = Size(height=own[0], width=own[1])
    if not values.do_resize:
        notes.append(f"{PREPROCESSOR} doesn't resize: images are resized to {own[0]}x{own[1]}")
        values = values.model_copy(update={"size": whole, "do_center_crop": False})
    size, resize_to, crop_mode = geometry(path, values, own)
    if size != own:
        raise InputError(
            f"cannot load {path.parent}",
            f"{PREPROCESSOR} gives {size[0]}x{size[1]} images and the model takes {own[0]}x{own[1]}",
            f"Correct the size in {PREPROCESSOR}",
        )
    if values.resample not in RESAMPLING:
        raise invalid(path, f"resample is {values.resample}: PIL's filters are 0 to {max(RESAMPLING)}")
    mean, std = normalisation(path, values, channels)
    return Preprocessing(
        size=size,
        crop_pct=1.0 if resize_to is None else size[0] / resize_to,
        crop_mode=crop_mode,
        interpolation=RESAMPLING[values.resample],
        mean=mean,
        std=std,
        channels="L" if channels == 1 else "RGB",
        resize_to=resize_to,
    )


def geometry(
    path: Path, values: Preprocessor, own: tuple[int, int]
) -> tuple[tuple[int, int], int | None, str]:
    """Final (height, width), side of the resize before a crop or None, and crop mode.

    A height and a width, or one number, ignore the aspect ratio ("squash"); `shortest_edge` keeps it.
    """
    size = values.size or Size(height=own[0], width=own[1])
    resized = sides(path, "size", size)
    mode = "squash" if size.shortest_edge is None else "center"
    crops = values.crop_size is not None if values.do_center_crop is None else values.do_center_crop
    if not crops:
        return resized, None, mode
    crop = own if values.crop_size is None else sides(path, "crop_size", values.crop_size)
    if crop == resized:
        return crop, None, mode
    return crop, min(resized), mode


def sides(path: Path, key: str, size: Size) -> tuple[int, int]:
    """(height, width), the shorter side standing for both. Raises InputError where the file gives neither."""
    if size.shortest_edge is not None:
        return size.shortest_edge, size.shortest_edge
    if size.height is None or size.width is None:
        raise invalid(path, f"{key} has neither height and width nor shortest_edge")
    return size.height, size.width


def normalisation(
    path: Path, values: Preprocessor, channels: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation in units of 0..1, with the processor's rescaling folded in."""
    scale = values.rescale_factor * 255 if values.do_rescale else 255.0
    if math.isclose(scale, 1.0, rel_tol=1e-6):
        scale = 1.0
    given: dict[str, tuple[float, ...]] = {"image_mean": (0.0,), "image_std": (1.0,)}
    if values.do_normalize:
        given = {"image_mean": values.image_mean, "image_std": values.image_std}
    for key, numbers in given.items():
        if len(numbers) not in (1, channels):
            raise invalid(path, f"{key} has {len(numbers)} values for {channels} channels")
    mean, std = (part * channels if len(part) == 1 else part for part in given.values())
    return tuple(value / scale for value in mean), tuple(value / scale for value in std)
