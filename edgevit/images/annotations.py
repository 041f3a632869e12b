"""COCO annotations of photographs, brought to the geometry that a model sees."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from edgevit.errors import InputError
from edgevit.files import read_input
from edgevit.images.pixels import margin, resized, upright
from edgevit.images.preprocessing import Preprocessing

SEEN = 0.5  # share of a box that must lie in the crop: less of it counts neither way
Truth = dict[str, Any]


def read_annotations(path: Path, photographs: Sequence[Path], preprocessing: Preprocessing) -> Truth:
    """Boxes of the photographs as COCO writes them, images numbered as they come, in pixels of the model's input.

    Raises InputError for a file that is no COCO annotation, that lacks a photograph or knows another size of it.
    """
    what = f"cannot use --annotations {path}"
    content = parsed(path, what)
    by_name: dict[str, Any] = {Path(str(each["file_name"])).name: each for each in content["images"]}
    missing = [each.name for each in photographs if each.name not in by_name]
    if missing:
        why = (
            f"{len(missing)} of {len(photographs)} validation images are not in it, the first is {missing[0]}"
        )
        raise InputError(what, why, "Give the annotations of these images")
    boxes: dict[Any, list[dict[str, Any]]] = {}
    for each in content["annotations"]:
        boxes.setdefault(each["image_id"], []).append(each)
    images: list[Truth] = []
    found: list[Truth] = []
    for number, photograph in enumerate(photographs):
        own = by_name[photograph.name]
        with Image.open(photograph) as opened:
            shown = upright(opened).size
        if shown != (own["width"], own["height"]):
            theirs, ours = f"{own['width']}x{own['height']}", f"{shown[0]}x{shown[1]}"
            raise InputError(
                what, f"it says that {photograph.name} is {theirs}, and it is {ours}", "Correct it"
            )
        view = view_of(shown, preprocessing)
        images.append({"id": number, "width": view.size[0], "height": view.size[1]})
        for each in boxes.get(own["id"], ()):
            found.append(seen(each, view) | {"image_id": number, "id": len(found) + 1})
    kinds = [{"id": each["id"], "name": str(each["name"])} for each in content["categories"]]
    return {"images": images, "categories": kinds, "annotations": found}


def parsed(path: Path, what: str) -> Truth:
    """The file, checked as far as it is used."""
    fix = "Give a COCO file of boxes, as instances_val2017.json is"
    try:
        content = json.loads(read_input(path, what))
        kinds = {each["id"] for each in content["categories"] if each["name"]}
        for each in content["images"]:
            _ = each["id"], each["file_name"], int(each["width"]), int(each["height"])
        for each in content["annotations"]:
            finite = len(each["bbox"]) == 4 and all(math.isfinite(float(value)) for value in each["bbox"])
            if not finite or each["category_id"] not in kinds:
                raise InputError(
                    what, f"annotation {each['id']} has no box, or a category that it lacks", fix
                )
            _ = each["image_id"]
    except (ValueError, KeyError, TypeError) as error:
        why = f"it is no COCO annotation ({type(error).__name__}: {' '.join(str(error).split())[:100]})"
        raise InputError(what, why, fix) from None
    return dict(content)


@dataclass(frozen=True)
class View:
    """What a model sees of a photograph, across and down: its scale, where the crop begins, the crop's size."""

    ratios: tuple[float, ...]
    begins: tuple[int, ...]
    size: tuple[int, ...]


def view_of(photograph: tuple[int, int], preprocessing: Preprocessing) -> View:
    """The view of a photograph of (width, height)."""
    scaled, size = resized(Image.new("L", photograph), preprocessing).size, preprocessing.size[::-1]
    return View(
        tuple(new / old for new, old in zip(scaled, photograph, strict=True)),
        tuple(margin(each, wanted) for each, wanted in zip(scaled, size, strict=True)),
        size,
    )


def seen(annotation: dict[str, Any], view: View) -> Truth:
    """One box where the model sees it; what the crop leaves less than half of is ignored, as a crowd is."""
    box = [float(each) for each in annotation["bbox"]]
    low, length, whole = [], [], 1.0
    for start, extent, ratio, begin, limit in zip(
        box[:2], box[2:], view.ratios, view.begins, view.size, strict=True
    ):
        first, last = start * ratio - begin, (start + extent) * ratio - begin
        low.append(min(max(first, 0.0), limit))
        length.append(min(max(last, 0.0), limit) - low[-1])
        whole *= last - first
    area = math.prod(length)
    ignored = bool(annotation.get("iscrowd")) or area < SEEN * whole or area <= 0
    return {
        "category_id": annotation["category_id"],
        "bbox": [*low, *length],
        "area": area,
        "iscrowd": int(ignored),
    }
