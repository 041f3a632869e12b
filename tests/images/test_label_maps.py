"""Label maps follow their photographs' geometry; what is wrong with one is one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgevit.errors import InputError
from edgevit.images.label_maps import IGNORED, map_files, read_maps
from edgevit.images.pixels import pixels_of
from edgevit.images.preprocessing import Preprocessing

WIDE = (40, 24)  # width, height


def photograph(folder: Path, numbers: Any) -> Path:
    """A picture whose brightness is its label map's number times 50, and the map."""
    picture = np.repeat((numbers * 50).astype(np.uint8)[..., None], 3, 2)
    Image.fromarray(picture).save(folder / "photo.bmp")
    (folder / "maps").mkdir(exist_ok=True)
    Image.fromarray(numbers.astype(np.uint8)).save(folder / "maps" / "photo.png")
    return folder / "photo.bmp"


def halves() -> Any:
    numbers = np.zeros((WIDE[1], WIDE[0]), np.uint8)
    numbers[:, WIDE[0] // 2 :] = 3
    numbers[: WIDE[1] // 2] += 1
    return numbers


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
def test_a_map_is_cut_as_its_photograph(tmp_path: Path, mode: Any) -> None:
    path = photograph(tmp_path, halves())
    preprocessing = Preprocessing((16, 16), crop_pct=1.0, crop_mode=mode, interpolation="nearest")
    files = map_files(tmp_path / "maps", [path])
    (found,) = read_maps(files, [path], preprocessing, (16, 16), 5)
    seen = pixels_of(path, preprocessing)[..., 0]
    inside = found != IGNORED
    np.testing.assert_array_equal(found[inside] * 50, seen[inside])
    assert inside.all() == (mode != "border")
    (small,) = read_maps(files, [path], preprocessing, (4, 4), 5)
    assert small.shape == (4, 4)


def spoilt(kind: str, folder: Path) -> None:
    file = folder / "maps" / "photo.png"
    if kind == "missing":
        file.unlink()
    elif kind == "damaged":
        file.write_bytes(file.read_bytes()[:20])
    elif kind == "colour":
        Image.new("RGB", WIDE).save(file)
    elif kind == "size":
        Image.new("L", (8, 8)).save(file)
    else:
        Image.new("L", WIDE, 77).save(file)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "1 of 1 images have no map there, the first would be photo.png"),
        ("damaged", "cannot use the label map photo.png: it is damaged or no image"),
        ("colour", "it is no map of numbers up to 255 but a picture"),
        ("size", "it has 8x8 pixels and photo.bmp has 40x24"),
        ("number", "it has the number 77 and the model has classes 0 to 4. Correct it; 255 says"),
    ],
)
def test_a_wrong_map_is_one_line(tmp_path: Path, kind: str, message: str) -> None:
    path = photograph(tmp_path, halves())
    spoilt(kind, tmp_path)
    with pytest.raises(InputError) as caught:
        files = map_files(tmp_path / "maps", [path])
        read_maps(files, [path], Preprocessing((16, 16)), (16, 16), 5)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot use --label-maps .*: no such folder"):
        map_files(tmp_path / "absent", [])
