"""The kinds of output there are. A new kind is a module beside this one and an entry of `KINDS`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from edgevit.metrics.classification import Accuracy
from edgevit.metrics.difference import Difference
from edgevit.metrics.predicted_loss import PredictedLoss, predicted_points
from edgevit.outputs import angles, boxes, classes, embeddings, maps, pictures
from edgevit.outputs.told import LOW, WORST, Column, agrees, cosine, number, percent, right, right_in_five


@dataclass(frozen=True)
class Kind:
    """What an output of one kind means. Arrays are [n, *shape], what was found first, then the reference.

    `description` says what it is, `same` what an artefact keeps of it. `difference` is for choices between
    candidates, `predicted` for what is accepted (without labels), `compare` for what is told. `sampled` is of a
    torch tensor (see `Outputs.sampled`). `columns` are a table's, explained by `legend`; `unit` is that of
    `Accuracy.drop_points`, by labels and without, `divergence` that of `Difference.kl`. `classifies`: class
    scores of a whole image, `classes_of_places`: of every place. `is_map`: its last two axes are rows and columns
    of the image. `among_others`: the answer is which other image is
    nearest. `whole`: eight bits would spoil it, so it leaves an artefact as floating-point numbers. `show` gives
    pictures of what changed, `draw` one of an answer. `expected_drop` is `predicted` for changes so large
    that few images show them.
    """

    description: str
    same: str
    difference: Callable[[Any, Any], Difference]
    predicted: Callable[[Any, Any, Any, float | None], PredictedLoss]
    sampled: Callable[[Any, Any], Any]
    compare: Callable[[Any, Any, Any], Accuracy]
    columns: tuple[Column, ...]
    legend: str
    unit: tuple[str, str]
    divergence: str = "1 - cosine"
    classifies: bool = False
    classes_of_places: bool = False
    is_map: bool = False
    among_others: bool = False
    whole: bool = True
    show: pictures.Show | None = None
    draw: pictures.Draw | None = None
    expected_drop: Callable[[Any, Any], float] | None = None


OFF = "off by a tenth or less"
ANGLES = (cosine(), LOW, WORST)
ANGLES_LEGEND = (
    "cosine to the float model's: mean, 5th percentile and worst of the images; lost: 1 - cosine in %"
)
COSINE_LOST = ("% of the cosine", "% of the cosine")

KINDS: dict[str, Kind] = {
    "logits": Kind(
        "class scores of the image",
        "same prediction",
        classes.difference,
        classes.predicted,
        classes.sampled,
        classes.compare,
        columns=(
            right("top-1"),
            right_in_five("top-5"),
            agrees("agrees"),
            Column("KL", lambda each: number(each.kl)),
            cosine(),
        ),
        legend="top-1, top-5, agrees (same prediction as float) in %; lost: points of top-1 against float, paired; "
        "KL in nats",
        divergence="KL in nats",
        unit=("points of top-1", "points of top-1"),
        classifies=True,
        whole=False,
        expected_drop=predicted_points,
    ),
    "embedding": Kind(
        "a vector that is compared by its angle",
        "same nearest neighbour",
        embeddings.difference,
        embeddings.predicted,
        angles.sampled,
        embeddings.compare,
        columns=(
            right("1-NN"),
            agrees("nearest"),
            Column("ten nearest", lambda each: percent(each.overlap)),
            *ANGLES,
        ),
        legend="1-NN: images whose nearest other image has their label, in %; nearest, ten nearest: those that "
        "stay the float model's, in %; cosine: mean, 5th percentile and worst of the images; lost: points of "
        "1-NN, without labels 1 - cosine in %",
        unit=("points of 1-NN", "% of the cosine"),
        among_others=True,
        show=pictures.neighbours,
    ),
    "segmentation": Kind(
        "class scores [classes, height, width] of every place",
        "same class",
        maps.class_difference,
        maps.class_predicted,
        maps.class_sampled,
        maps.class_compare,
        columns=(
            agrees("pixels"),
            Column("mean IoU", lambda each: percent(each.mean_iou)),
            cosine(),
            WORST,
        ),
        legend="pixels: those that keep the float model's class, mean IoU: with its map, in %; lost: pixels that "
        "change in %",
        divergence="KL in nats",
        unit=("% of the pixels", "% of the pixels"),
        classes_of_places=True,
        is_map=True,
        show=pictures.classes,
        draw=pictures.map_of_classes,
    ),
    "depth": Kind(
        "one number for every place, such as depth",
        OFF,
        maps.value_difference,
        maps.value_predicted,
        maps.value_sampled,
        maps.value_compare,
        columns=(
            cosine("correlation"),
            WORST,
            Column("within 1.25", lambda each: percent(each.within)),
            Column("off by", lambda each: percent(each.relative_error)),
        ),
        legend="correlation with the float model's map: mean and worst image; within 1.25: places whose ratio to "
        "it is, in %; off by: an image's median relative error, in %; lost: 1 - correlation in %",
        divergence="1 - correlation",
        unit=("% of the correlation", "% of the correlation"),
        show=pictures.values,
        draw=pictures.map_of_values,
        is_map=True,
    ),
    "dense": Kind(
        "features [channels, height, width] of every place",
        OFF,
        maps.feature_difference,
        maps.feature_predicted,
        maps.feature_sampled,
        maps.feature_compare,
        columns=ANGLES,
        legend=ANGLES_LEGEND,
        unit=COSINE_LOST,
        show=pictures.features,
        draw=pictures.map_of_features,
        is_map=True,
    ),
    "tokens": Kind(
        "features [tokens, width]",
        OFF,
        angles.difference,
        angles.predicted,
        angles.sampled,
        angles.compare,
        columns=ANGLES,
        legend=ANGLES_LEGEND,
        unit=COSINE_LOST,
        show=pictures.vectors,
    ),
    "boxes": Kind(
        "boxes [queries, 4]: centre, width and height, 0..1, before any suppression",
        "same box",
        boxes.difference,
        boxes.predicted,
        boxes.sampled,
        boxes.compare,
        columns=(
            agrees("match"),
            Column("overlap", lambda each: percent(each.mean_iou)),
            Column("score shift", lambda each: number(each.score_shift)),
            cosine(),
            WORST,
        ),
        legend="match: boxes that overlap the float model's by half or more, overlap: their mean intersection over "
        "union, in %; with class scores those that are most alike are compared, only boxes that the float model is "
        "sure of count, which must keep their class, and score shift: how far their probability moves; lost: boxes "
        "that no longer match in %",
        divergence="overlap lost",
        unit=("% of the boxes", "% of the boxes"),
        show=pictures.drawn_boxes,
        draw=pictures.boxes_on_image,
    ),
    "tensor": Kind(
        "anything else, compared as one vector",
        OFF,
        angles.flat_difference,
        angles.flat_predicted,
        angles.flat_sampled,
        angles.flat_compare,
        columns=(*ANGLES, Column("off by", lambda each: percent(each.relative_error))),
        legend=f"{ANGLES_LEGEND}; off by: relative error in %",
        unit=COSINE_LOST,
        show=pictures.flat,
    ),
}

KINDS["scores"] = replace(KINDS["tokens"], description="class scores [queries, classes] of as many boxes")


def columns_of(accuracy: Accuracy | None, means: Kind) -> tuple[Column, ...]:
    """A table's columns for measurements like one: the kind's, with what was asked besides in the first place."""
    if accuracy is None or not accuracy.metric:
        return means.columns
    if accuracy.score is not None:
        own = Column(
            accuracy.metric, lambda each: number(each.score), lambda each: number(each.reference_score)
        )
        return (own, *means.columns)
    return (right(accuracy.metric), *means.columns[1:])


def unit_of(accuracy: Accuracy) -> str:
    """What `drop_points` of a measurement counts."""
    if accuracy.score is not None:
        return f"of {accuracy.metric}"
    if accuracy.metric:
        return f"points of {accuracy.metric}"
    labelled, unlabelled = KINDS[accuracy.kind].unit
    return unlabelled if accuracy.top1 is None else labelled


def kept(accuracy: Accuracy) -> tuple[float, str]:
    """How much of the model an artefact is, 0..1, and in words: by its predictions, else by the cosine."""
    if KINDS[accuracy.kind].classifies:
        return accuracy.agreement, f"it keeps {100 * accuracy.agreement:.0f} % of the predictions"
    return accuracy.cosine, f"the cosine of its outputs to the float model's is {accuracy.cosine:.2f}"
