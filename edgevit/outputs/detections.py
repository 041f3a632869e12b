"""What a detector finds: its boxes together with the class scores of the same queries."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from io import StringIO
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from scipy.special import expit, softmax

from edgevit.errors import InputError
from edgevit.metrics.classification import Accuracy
from edgevit.outputs import angles
from edgevit.outputs.boxes import MATCHED, overlaps

CONFIDENT = 0.5  # of a score: below it nobody would draw the box
DRAWS = 100  # of a bootstrap
MOST = 100  # detections an image, as COCO counts
Array = npt.NDArray[Any]


class Named(Protocol):
    """An output as far as it matters here."""

    @property
    def kind(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...


@dataclass(frozen=True)
class Detections:
    """Of each image and query: the likeliest class, its probability, its box."""

    classes: npt.NDArray[np.int64]  # [n, queries]
    scores: npt.NDArray[np.float64]  # [n, queries]
    boxes: npt.NDArray[np.float64]  # [n, queries, 4]: centre, width, height; 0..1


def places_of(outputs: Sequence[Named]) -> tuple[int, int] | None:
    """Where a model's boxes are, and the scores of as many queries; None where it has not both."""
    for place, output in enumerate(outputs):
        for other, scores in enumerate(outputs):
            if output.kind == "boxes" and scores.kind == "scores" and scores.shape[0] == output.shape[0]:
                return place, other
    return None


def has_nothing(reference: Array) -> bool:
    """Whether the last of the scores [n, queries, classes] stands for "nothing is here".

    Then a softmax is over all of them, as in DETR and YOLOS, and it wins most queries: a picture holds fewer things
    than there are queries. Else every class has a probability of its own, as in Deformable DETR.
    """
    return bool((reference.argmax(-1) == reference.shape[-1] - 1).mean() > 0.5)


def detections(scores: Array, boxes: Array, nothing: bool) -> Detections:
    """Of scores [n, queries, classes] and boxes [n, queries, 4]."""
    shares = softmax(scores.astype(np.float64), -1)[..., :-1] if nothing else expit(scores.astype(np.float64))
    return Detections(shares.argmax(-1), shares.max(-1), boxes.astype(np.float64))


def compare(accuracy: Accuracy, scores: tuple[Array, Array], boxes: tuple[Array, Array]) -> Accuracy:
    """A comparison of boxes told by those that the float model is sure of: the others nobody sees.

    Pairs are what was found and the reference. A box stays if the same query has its class and overlaps it by half.
    `score_shift` is the mean change of their probability. Images without such a box don't count; without any in all
    of them nothing changes.
    """
    nothing = has_nothing(scores[1])
    ours, theirs = (detections(*pair, nothing) for pair in zip(scores, boxes, strict=True))
    sure = theirs.scores >= CONFIDENT
    some = sure.any(1)
    if not some.any():
        return accuracy
    overlap = overlaps(ours.boxes, theirs.boxes)
    stays = (overlap >= MATCHED) & (ours.classes == theirs.classes) & (ours.scores >= CONFIDENT / 2)
    count = sure[some].sum(1)
    kept = (stays & sure)[some].sum(1) / count
    cosine = angles.cosines(angles.flat(boxes[0]), angles.flat(boxes[1]))
    told = angles.told(
        cosine[some],
        kept,
        1 - kept,
        mean_iou=float(overlap[sure].mean()),
        score_shift=float(np.abs(ours.scores - theirs.scores)[sure].mean()),
    )
    return replace(told, n=accuracy.n, kind=accuracy.kind, others=accuracy.others)


def worth_drawing(outputs: Sequence[Named], parts: Sequence[Array], place: int, number: int) -> Array:
    """What one picture's answer at a place shows: of a detector's boxes those that it is sure of."""
    places = places_of(outputs)
    if places is None or places[0] != place:
        whole: Array = parts[place][number]
        return whole
    boxes, scores = (parts[each] for each in places)
    found = detections(scores, boxes, has_nothing(scores))
    sure: Array = found.boxes[number][found.scores[number] >= CONFIDENT]
    return sure


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
    return replace(
        accuracy,
        metric="mAP by annotations, %",
        score=100 * ours,
        reference_score=100 * theirs,
        drop_points=100 * (theirs - ours),
        drop_low=100 * float(low),
        drop_high=100 * float(high),
    )


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
        known.dataset = json.loads(json.dumps(truth))
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
