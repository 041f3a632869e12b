"""COCO's mean average precision of a detector, by annotations, through pycocotools."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import numpy as np

from edgevit.errors import InputError
from edgevit.metrics.classification import Accuracy
from edgevit.outputs.detections import Array, Detections, Named, detections, has_nothing, places_of
from edgevit.outputs.metric import told_by

DRAWS = 100  # of a bootstrap
MOST = 100  # detections an image, as COCO counts


def by_annotations(
    accuracy: Accuracy,
    outputs: Sequence[Named],
    truth: dict[str, Any],
    names: Sequence[str] | None,
    found: Sequence[Array],
    reference: Sequence[Array],
) -> Accuracy:
    """A measurement told by COCO's mean average precision in %, what of it is lost, a paired bootstrap's interval.

    `truth` is what `images.annotations` read, in pixels of the model's input. `names` are the model's
    classes: they are the categories of the same name; without names a class is the category of its number. Needs
    pycocotools; raises InputError without it, and where no class is a category.
    """
    places = places_of(outputs)
    assert places is not None  # questions.check() said so
    category = categories(truth, names)
    nothing = has_nothing(reference[places[1]])
    evaluated = [
        evaluate(truth, detections(parts[places[1]], parts[places[0]], nothing), category)
        for parts in (found, reference)
    ]
    ours, theirs = (precision(each, None) for each in evaluated)
    random, n = np.random.default_rng(0), len(truth["images"])
    lost = []
    for _ in range(DRAWS):
        some = random.integers(0, n, n)
        lost.append(precision(evaluated[1], some) - precision(evaluated[0], some))
    low, high = np.nanquantile(lost, (0.025, 0.975))
    scores, drop = (100 * ours, 100 * theirs), (100 * (theirs - ours), 100 * low, 100 * high)
    return told_by(accuracy, "mAP by annotations, %", scores, drop)


def categories(truth: dict[str, Any], names: Sequence[str] | None) -> dict[int, int]:
    """The category of each class of the model that is one."""
    known = {each["name"]: each["id"] for each in truth["categories"]}
    if names is None:
        found = {number: number for number in known.values()}
    else:
        found = {number: known[name] for number, name in enumerate(names) if name in known}
    if not found:
        raise InputError(
            "cannot use --annotations",
            f"no class of the model is called {' or '.join(map(repr, list(known)[:2]))}",
            "Give the model's class names with --classes, as the annotations write them",
        )
    return found


def evaluate(truth: dict[str, Any], found: Detections, category: dict[int, int]) -> Any:
    """pycocotools' evaluation of every image, not yet summed up."""
    try:
        from pycocotools.coco import COCO  # type: ignore[import-untyped]
        from pycocotools.cocoeval import COCOeval  # type: ignore[import-untyped]
    except ImportError:
        fix = 'Run "pip install pycocotools", or pip install edgevit[detection]'
        raise InputError("cannot use --annotations", "pycocotools is not installed", fix) from None
    width, height = truth["images"][0]["width"], truth["images"][0]["height"]
    rows = []
    for image, (classes, scores, boxes) in enumerate(
        zip(found.classes, found.scores, found.boxes, strict=True)
    ):
        for query in np.argsort(-scores, kind="stable")[:MOST]:
            if int(classes[query]) in category:
                x, y, across, down = boxes[query]
                box = [(x - across / 2) * width, (y - down / 2) * height, across * width, down * height]
                rows.append(
                    {
                        "image_id": image,
                        "category_id": category[int(classes[query])],
                        "bbox": [float(each) for each in box],
                        "score": float(scores[query]),
                    }
                )
    with redirect_stdout(StringIO()):  # it tells its steps
        known = COCO()
        known.dataset = copy.deepcopy(truth)
        known.createIndex()
        theirs = COCO()
        theirs.dataset = {"images": truth["images"], "categories": truth["categories"], "annotations": []}
        theirs.createIndex()
        evaluation = COCOeval(known, known.loadRes(rows) if rows else theirs, "bbox")
        evaluation.evaluate()
    return evaluation


def precision(evaluation: Any, images: Array | None) -> float:
    """Average precision over classes and overlaps of 0.5 to 0.95, 0..1, on all images or on those drawn.

    nan where none of them has anything to find.
    """
    every, asked = evaluation.evalImgs, evaluation.params.imgIds
    if images is not None:
        table = np.empty(len(every), dtype=object)
        table[:] = every
        evaluation.evalImgs = table.reshape(-1, len(asked))[:, images].ravel().tolist()
    with redirect_stdout(StringIO()):
        evaluation.accumulate()
    evaluation.evalImgs = every
    found = evaluation.eval["precision"][:, :, :, 0, -1]
    found = found[found > -1]
    return float(found.mean()) if len(found) else float("nan")
