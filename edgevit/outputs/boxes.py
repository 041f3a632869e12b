"""Boxes of a detector that gives one for each query: whether each still covers what the float model's covers."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgevit.metrics.classification import Accuracy
from edgevit.metrics.difference import Difference
from edgevit.metrics.predicted_loss import PredictedLoss
from edgevit.outputs import angles

Boxes = npt.NDArray[Any]
MATCHED = 0.5  # intersection over union
WORDS = ("% of the boxes' overlap lost", "% of boxes that no longer match")
sampled = angles.flat_sampled


def overlaps(found: Boxes, reference: Boxes) -> npt.NDArray[np.float64]:
    """Intersection over union of boxes [n, queries, 4] (centre x, centre y, width, height), query by query."""
    corners = []
    for boxes in (found.astype(np.float64), reference.astype(np.float64)):
        middle, half = boxes[..., :2], np.maximum(boxes[..., 2:], 0) / 2
        corners.append((middle - half, middle + half))
    (low, high), (other_low, other_high) = corners
    both = np.maximum(np.minimum(high, other_high) - np.maximum(low, other_low), 0).prod(-1)
    either = (high - low).prod(-1) + (other_high - other_low).prod(-1) - both
    return np.where(either > 0, both / np.maximum(either, 1e-12), 1.0)


def difference(found: Any, reference: Any) -> Difference:
    """Boxes that match, and the overlap that is lost."""
    overlap = overlaps(found, reference)
    lost = 1 - overlap.mean(1)
    return Difference(
        n=len(lost),
        agreement=float((overlap >= MATCHED).mean()),
        kl=float(lost.mean()),
        median_kl=float(np.median(lost)),
        cosine=float(angles.cosines(angles.flat(found), angles.flat(reference)).mean()),
    )


def predicted(found: Any, reference: Any, more: Any, scale: float | None) -> PredictedLoss:
    """By boxes that no longer match."""
    overlap = overlaps(found, reference)
    unmatched = (overlap < MATCHED).mean(1)
    cosine = float(angles.cosines(angles.flat(found), angles.flat(reference)).mean())
    return angles.loss_by(unmatched, cosine, WORDS, unmatched)


def compare(found: Any, reference: Any, labels: Any) -> Accuracy:
    """The share of boxes that match the float model's, and their mean overlap."""
    overlap = overlaps(found, reference)
    cosine = angles.cosines(angles.flat(found), angles.flat(reference))
    kept = (overlap >= MATCHED).mean(1)
    return angles.told(cosine, kept, 1 - kept, mean_iou=float(overlap.mean()))
