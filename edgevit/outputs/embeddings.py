"""An embedding: its angle to the float model's, and whether the nearest other image stays the nearest."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edgevit.metrics.classification import Accuracy, answers_by
from edgevit.metrics.difference import Difference
from edgevit.metrics.predicted_loss import PredictedLoss, predict_loss
from edgevit.outputs import angles

Vectors = npt.NDArray[Any]
NEAREST = 10
MOST = 2048  # images among which neighbours are looked for when a loss is only predicted
AT_ONCE = 1024
# A changed neighbour was nearly as near as the old one and is as often of the same label: over the tenth of 744
# images with the narrowest margins the net loss is none, with 95 % confidence below 0.08 of the changes.
CHANGES_PER_POINT = 12.0
WORDS = (angles.LOST, "% changed nearest neighbours")


def unit(vectors: Vectors) -> npt.NDArray[np.float32]:
    """Vectors [n, width] of length one; zero stays zero."""
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    found: npt.NDArray[np.float32] = (vectors / np.maximum(norms, 1e-12)).astype(np.float32)
    return found


def to_others(vectors: Vectors) -> npt.NDArray[np.float32]:
    """Cosines of each image to the others, [n, n - 1], in the images' order."""
    vectors, n = unit(vectors), len(vectors)
    cosine = vectors @ vectors.T
    others: npt.NDArray[np.float32] = cosine[~np.eye(n, dtype=bool)].reshape(n, n - 1)
    return others


def neighbours(vectors: Vectors, count: int) -> npt.NDArray[np.int64]:
    """The nearest other images of each, the nearest first: [n, count]."""
    vectors, found = unit(vectors), []
    for start in range(0, len(vectors), AT_ONCE):
        cosine = vectors[start : start + AT_ONCE] @ vectors.T
        cosine[np.arange(len(cosine)), start + np.arange(len(cosine))] = -np.inf
        near = np.argpartition(-cosine, count - 1, axis=1)[:, :count]
        order = np.argsort(-np.take_along_axis(cosine, near, 1), axis=1, kind="stable")
        found.append(np.take_along_axis(near, order, 1))
    return np.concatenate(found)


def difference(found: Any, reference: Any) -> Difference:
    """Cosines, and neighbours that stay."""
    apart = angles.difference(found, reference)
    if len(found) < 2:
        return apart
    same = neighbours(found, 1)[:, 0] == neighbours(reference, 1)[:, 0]
    return replace(apart, agreement=float(same.mean()))


def predicted(found: Any, reference: Any, more: Any, scale: float | None) -> PredictedLoss:
    """The angle, and how many nearest neighbours will change, by the margins between them.

    As the classes of a classifier, the other images are what an image may be taken for: `more` are float
    embeddings [m, width] of all images, whose margins serve.
    """
    cosine = angles.cosines(found, reference)
    if len(found) < 3:
        return angles.predicted(found, reference, None, None)
    every = None if more is None else to_others(more[-MOST:])
    choices = predict_loss(to_others(found), to_others(reference), every)
    lost = angles.loss_by(1 - cosine, float(cosine.mean()), WORDS)
    return replace(
        lost,
        changes=choices.changes,
        changes_upper=choices.changes_upper,
        agreement=choices.agreement,
        changes_per_point=CHANGES_PER_POINT,
    )


def compare(found: Any, reference: Any, labels: Any) -> Accuracy:
    """Cosines, the same nearest neighbour, overlap of the ten nearest; with labels, leave-one-out 1-NN accuracy."""
    cosine = angles.cosines(found, reference)
    if len(found) < 2:
        return angles.told(cosine)
    count = min(NEAREST, len(found) - 1)
    ours, theirs = neighbours(found, count), neighbours(reference, count)
    same = (ours[:, 0] == theirs[:, 0]).astype(np.float64)
    overlap = np.mean([len(set(a) & set(b)) / count for a, b in zip(ours, theirs, strict=True)])
    right: dict[str, Any] = {}
    if labels is not None and len(np.unique(labels)) < len(labels):  # else no image has another of its label
        right = answers_by(
            labels[ours[:, 0]] == labels,
            labels[theirs[:, 0]] == labels,
            (labels[ours[:, :5]] == labels[:, None]).any(1),
            (labels[theirs[:, :5]] == labels[:, None]).any(1),
        )
    return angles.told(cosine, same, overlap=float(overlap), **right)
