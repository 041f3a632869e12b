"""Label maps of photographs, class numbers of every place, brought to the geometry that a model sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from edgevit.errors import InputError
from edgevit.images.pixels import cropped, resized, upright
from edgevit.images.preprocessing import Preprocessing

IGNORED = 255  # a place that nobody labelled
Maps = npt.NDArray[np.uint8]


def map_files(folder: Path, photographs: Sequence[Path]) -> list[Path]:
    """The PNG of each photograph's name. Raises InputError where one is missing."""
    what = f"cannot use --label-maps {folder}"
    if not folder.is_dir():
        raise InputError(what, "no such folder", "Give the folder of the PNG files")
    files = [folder / f"{path.stem}.png" for path in photographs]
    missing = [file for file in files if not file.is_file()]
    if missing:
        why = f"{len(missing)} of {len(files)} images have no map there, the first would be {missing[0].name}"
        raise InputError(what, why, "Give a PNG of class numbers for each image, of the same name")
    return files


def read_maps(
    files: Sequence[Path],
    photographs: Sequence[Path],
    preprocessing: Preprocessing,
    size: tuple[int, int],
    classes: int,
) -> Maps:
    """Class numbers uint8 [n, *size] of label maps, resized and cropped as their photographs; IGNORED where
    unknown.

    Raises InputError for a map of another size than its photograph's, or with a number that is no class.
    """
    return np.stack(
        [
            read_map(file, path, preprocessing, size, classes)
            for file, path in zip(files, photographs, strict=True)
        ]
    )


def read_map(
    file: Path, photograph: Path, preprocessing: Preprocessing, size: tuple[int, int], classes: int
) -> Maps:
    """One label map."""
    what = f"cannot use the label map {file.name}"
    try:
        with Image.open(file) as opened:
            opened.load()
            numbers = np.asarray(opened)
        with Image.open(photograph) as opened:
            shown = upright(opened).size
    except Exception as error:  # a damaged file makes a decoder raise nearly anything
        raise InputError(what, "it is damaged or no image", "Write it again as PNG") from error
    if numbers.ndim != 2 or numbers.dtype not in (np.uint8, np.bool_):
        raise InputError(
            what, "it is no map of numbers up to 255 but a picture", "Save one channel of 8 bits"
        )
    if numbers.shape[::-1] != shown:
        own, theirs = "x".join(map(str, numbers.shape[::-1])), "x".join(map(str, shown))
        raise InputError(
            what, f"it has {own} pixels and {photograph.name} has {theirs}", "Save it at that size"
        )
    unknown = np.unique(numbers[(numbers >= classes) & (numbers != IGNORED)])
    if len(unknown):
        why = f"it has the number {unknown[0]} and the model has classes 0 to {classes - 1}"
        raise InputError(what, why, f"Correct it; {IGNORED} says that a place is not labelled")
    # One more than the number, so that what lies outside the photograph is filled with "ignored".
    shifted = Image.fromarray((numbers.astype(np.uint8) + np.uint8(1)).astype(np.uint8))
    geometry = replace(preprocessing, interpolation="nearest", channels="L", mean=(0.0,), std=(1.0,))
    seen = cropped(resized(shifted, geometry), geometry).resize(size[::-1], Image.Resampling.NEAREST)
    found: Maps = np.asarray(seen) - np.uint8(1)
    return found
