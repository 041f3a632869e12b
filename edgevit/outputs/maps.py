"""Maps over the image: class scores, one number, or features for every place."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from edgevit.metrics.classification import Accuracy
from edgevit.metrics.difference import Difference, kl_by_image
from edgevit.metrics.predicted_loss import PredictedLoss
from edgevit.outputs import angles

Maps = npt.NDArray[Any]
SMALLEST = 1e-3  # of a map's mean: what is nearer to zero has no ratio
PLACES = 256  # of an image that serve a choice between candidates
NEAR = (
    1.25  # ratio up to which a depth counts as the same ("delta < 1.25", Eigen et al. 2014, arXiv 1406.2283)
)
CHANGES_A_POINT = 5.0  # as for classes: of five pixels that change, one is lost
WORDS = ("% of pixels expected lost", "% changed pixels")


def some_places(values: Any) -> Any:
    """Values of evenly spaced places, channels last: [n, places, channels] of [n, channels, height, width]."""
    flat = values.reshape(len(values), values.shape[1], -1)
    step = max(1, flat.shape[2] // PLACES)
    return flat[:, :, ::step].swapaxes(1, 2)


def class_difference(found: Any, reference: Any) -> Difference:
    """Of places: the same class, KL divergence, cosine."""
    ours, theirs = some_places(found), some_places(reference)
    n, places, channels = ours.shape
    kl = kl_by_image(ours.reshape(-1, channels), theirs.reshape(-1, channels)).reshape(n, places).mean(1)
    return Difference(
        n=n,
        agreement=float((ours.argmax(2) == theirs.argmax(2)).mean()),
        kl=max(0.0, float(kl.mean())),
        median_kl=max(0.0, float(np.median(kl))),
        cosine=float(angles.cosines(ours, theirs).mean()),
    )


def class_predicted(found: Any, reference: Any, more: Any, scale: float | None) -> PredictedLoss:
    """Pixels whose class changes, an image by an image."""
    changed = (found.argmax(1) != reference.argmax(1)).reshape(len(found), -1).mean(1)
    cosine = float(angles.cosines(some_places(found), some_places(reference)).mean())
    return angles.loss_by(changed / CHANGES_A_POINT, cosine, WORDS, changed)


def class_sampled(outputs: Any, generator: Any) -> Any:
    """Σ log p(y) of a class y drawn at every place, so that its Fisher information is the places' mean."""
    import torch

    rows = outputs.flatten(2).transpose(1, 2).flatten(0, 1)
    drawn = torch.multinomial(rows.detach().softmax(-1), 1, generator=generator)
    total = rows.log_softmax(-1).gather(1, drawn).sum()
    return total / math.sqrt(math.prod(outputs.shape[2:]))


def class_compare(found: Any, reference: Any, labels: Any) -> Accuracy:
    """Pixels that keep their class, and mean intersection over union with the float model's map."""
    ours, theirs = found.argmax(1), reference.argmax(1)
    kept = (ours == theirs).reshape(len(ours), -1).mean(1)
    cosine = angles.cosines(some_places(found), some_places(reference))
    return angles.told(cosine, kept, 1 - kept, mean_iou=mean_iou(ours, theirs, found.shape[1]))


def mean_iou(found: Maps, reference: Maps, classes: int) -> float:
    """Intersection over union of each class over all images, the mean of those that the reference has."""
    pairs = np.bincount(
        reference.ravel().astype(np.int64) * classes + found.ravel(), minlength=classes * classes
    ).reshape(classes, classes)
    both, either = np.diag(pairs), pairs.sum(0) + pairs.sum(1) - np.diag(pairs)
    there = pairs.sum(1) > 0
    return float((both[there] / either[there]).mean())


def flat(values: Any) -> Any:
    """[n, places]"""
    return values.reshape(len(values), -1)


def correlation(found: Any, reference: Any) -> npt.NDArray[np.float64]:
    """Of each image's values with the float model's: [n]."""
    ours, theirs = flat(found).astype(np.float64), flat(reference).astype(np.float64)
    return angles.cosines(ours - ours.mean(1, keepdims=True), theirs - theirs.mean(1, keepdims=True))


def value_difference(found: Any, reference: Any) -> Difference:
    """By correlation: all of a map's values have one sign, so their angle says little."""
    return angles.by_cosine(correlation(found, reference))


def value_predicted(found: Any, reference: Any, more: Any, scale: float | None) -> PredictedLoss:
    """By correlation."""
    same = correlation(found, reference)
    return angles.loss_by(1 - same, float(same.mean()), ("% of the correlation lost", ""))


def value_sampled(outputs: Any, generator: Any) -> Any:
    """As an angle, of values without their mean."""
    values = flat(outputs)
    return angles.sampled(values - values.mean(1, keepdim=True), generator)


def value_compare(found: Any, reference: Any, labels: Any) -> Accuracy:
    """Correlation, relative error, and the share of places within a ratio of 1.25 of the float model's."""
    ours, theirs = flat(found).astype(np.float64), flat(reference).astype(np.float64)
    least = np.maximum(SMALLEST * np.abs(theirs).mean(1, keepdims=True), np.finfo(np.float64).tiny)
    ratio = np.maximum(ours, least) / np.maximum(theirs, least)
    error = np.abs(ours - theirs) / np.maximum(np.abs(theirs), least)
    return angles.told(
        correlation(found, reference),
        relative_error=float(np.median(error, axis=1).mean()),
        within=float((np.maximum(ratio, 1 / ratio) < NEAR).mean()),
    )


def feature_difference(found: Any, reference: Any) -> Difference:
    """Cosines of places."""
    return angles.difference(some_places(found), some_places(reference))


def feature_predicted(found: Any, reference: Any, more: Any, scale: float | None) -> PredictedLoss:
    """Cosines of places."""
    return angles.predicted(some_places(found), some_places(reference), None, None)


def feature_sampled(outputs: Any, generator: Any) -> Any:
    """Cosines of places."""
    return angles.sampled(outputs.flatten(2).transpose(1, 2), generator)


def feature_compare(found: Any, reference: Any, labels: Any) -> Accuracy:
    """Cosines of all places."""
    ours, theirs = (each.reshape(*each.shape[:2], -1).swapaxes(1, 2) for each in (found, reference))
    return angles.compare(ours, theirs, None)
