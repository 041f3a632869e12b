"""What a detector finds: its boxes together with the class scores of the same queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from scipy.special import expit, softmax

from edgevit.metrics.any_order import in_order
from edgevit.metrics.classification import Accuracy
from edgevit.outputs import angles
from edgevit.outputs.boxes import MATCHED, overlaps

CONFIDENT = 0.5  # of a score: below it nobody would draw the box
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


def probabilities(scores: Array, nothing: bool) -> Array:
    """Of each class, of scores [n, queries, classes]; `nothing`: the last stands for none of them."""
    exact = scores.astype(np.float64)
    shares: Array = softmax(exact, -1)[..., :-1] if nothing else expit(exact)
    return shares


def sure_of(scores: Array) -> Array:
    """Which queries a model is sure of, [n, queries], by its own scores [n, queries, classes]."""
    sure: Array = probabilities(scores, has_nothing(scores)).max(-1) >= CONFIDENT
    return sure


def detections(scores: Array, boxes: Array, nothing: bool) -> Detections:
    """Of scores [n, queries, classes] and boxes [n, queries, 4]."""
    shares = probabilities(scores, nothing)
    return Detections(shares.argmax(-1), shares.max(-1), boxes.astype(np.float64))


def as_reference(
    outputs: Sequence[Named], found: Sequence[Array], reference: Sequence[Array]
) -> Sequence[Array]:
    """A detector's answers, one array an output, with each image's queries in the order of the reference's.

    What a detector finds is a set: one that takes its likeliest places for queries has them in the order of their
    scores, and a rounding turns that over. Outputs that have as many rows as there are queries go with them; those
    of other models stay as they are.
    """
    if (places := places_of(outputs)) is None:
        return found
    boxes, scores = places
    nothing, queries = has_nothing(reference[scores]), outputs[boxes].shape[:1]
    ours, theirs = (
        np.concatenate([parts[boxes], probabilities(parts[scores], nothing)], -1)
        for parts in (found, reference)
    )
    of_queries = {place: part for place, part in enumerate(found) if outputs[place].shape[:1] == queries}
    return list((dict(enumerate(found)) | in_order(of_queries, ours, theirs)).values())


def compare(accuracy: Accuracy, scores: tuple[Array, Array], boxes: tuple[Array, Array]) -> Accuracy:
    """A comparison of boxes told by those that the float model is sure of: the others nobody sees.

    Pairs are what was found and the reference, in one order. A box stays if the other one has its class and
    overlaps it by half. `score_shift` is the mean change of their probability. Images without such a box don't
    count; without any in all of them nothing changes.
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


def without_unsure(
    outputs: Sequence[Named], found: Sequence[Array], reference: Sequence[Array]
) -> tuple[Sequence[Array], Sequence[Array]]:
    """Two models' answers in one order, where boxes that the reference is not sure of have no size.

    As they are where it is sure of none, and of a model that has not boxes and scores.
    """
    if (places := places_of(outputs)) is None:
        return found, reference
    sure = sure_of(reference[places[1]])
    if not sure.any():
        return found, reference

    def hidden(parts: Sequence[Array]) -> list[Array]:
        return [part * sure[..., None] if place == places[0] else part for place, part in enumerate(parts)]

    return hidden(found), hidden(reference)


def worth_drawing(outputs: Sequence[Named], parts: Sequence[Array], place: int) -> list[Array]:
    """What each picture's answer at a place shows: of a detector's boxes those that it is sure of."""
    places = places_of(outputs)
    if places is None or places[0] != place:
        return list(parts[place])
    boxes, scores = (parts[each] for each in places)
    return [own[sure] for own, sure in zip(boxes, sure_of(scores), strict=True)]
