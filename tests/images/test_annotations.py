"""COCO annotations in the pixels that a model sees, and what is wrong with others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from edgevit.errors import InputError
from edgevit.images.annotations import read_annotations
from edgevit.images.preprocessing import Preprocessing

SQUASHED = Preprocessing((100, 50), crop_mode="squash", crop_pct=1.0)
CROPPED = Preprocessing((100, 100), crop_pct=1.0)


def coco(**changes: Any) -> dict[str, Any]:
    content = {
        "images": [{"id": 7, "file_name": "train/a.png", "width": 200, "height": 100}],
        "categories": [{"id": 3, "name": "cat"}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 3, "bbox": [100, 50, 60, 20], "iscrowd": 0}],
    }
    return content | changes


def read(tmp_path: Path, content: Any, preprocessing: Preprocessing = SQUASHED) -> Any:
    Image.new("RGB", (200, 100)).save(tmp_path / "a.png")
    path = tmp_path / "boxes.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_annotations(path, [tmp_path / "a.png"], preprocessing)


def test_boxes_are_scaled_as_the_picture_is(tmp_path: Path) -> None:
    found = read(tmp_path, coco())
    (box,) = found["annotations"]
    assert box["bbox"] == [25.0, 50.0, 15.0, 20.0]
    assert (box["image_id"], box["category_id"], box["area"], box["iscrowd"]) == (0, 3, 300.0, 0)


def test_boxes_are_cut_as_the_picture_is(tmp_path: Path) -> None:
    (box,) = read(tmp_path, coco(), CROPPED)["annotations"]
    assert box["bbox"] == [50.0, 50.0, 50.0, 20.0]
    assert box["iscrowd"] == 0


@pytest.mark.parametrize("across", [[150, 0, 50, 50], [0, 0, 60, 50]])
def test_what_the_crop_cuts_away_counts_neither_way(tmp_path: Path, across: list[int]) -> None:
    annotation = {"id": 1, "image_id": 7, "category_id": 3, "bbox": across}
    (box,) = read(tmp_path, coco(annotations=[annotation]), CROPPED)["annotations"]
    assert box["iscrowd"] == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("no json", r"it is no COCO annotation \(JSONDecodeError"),
        ({"images": []}, r"it is no COCO annotation \(KeyError"),
        ([1], r"it is no COCO annotation \(TypeError"),
        (
            coco(images=[{"id": 7, "file_name": "b.png", "width": 200, "height": 100}]),
            "1 of 1 validation images are not in it, the first is a.png",
        ),
        (
            coco(images=[{"id": 7, "file_name": "a.png", "width": 20, "height": 100}]),
            "it says that a.png is 20x100, and it is 200x100",
        ),
        (
            coco(annotations=[{"id": 1, "image_id": 7, "category_id": 9, "bbox": [1, 2, 3, 4]}]),
            "annotation 1 has no box, or a category that it lacks",
        ),
        (
            coco(annotations=[{"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 2, 3]}]),
            "annotation 1 has no box",
        ),
        (
            coco(annotations=[{"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 2, 3, "nan"]}]),
            "annotation 1 has no box",
        ),
    ],
)
def test_other_files_are_one_line(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(tmp_path, content)


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot use --annotations"):
        read_annotations(tmp_path / "absent.json", [], SQUASHED)
