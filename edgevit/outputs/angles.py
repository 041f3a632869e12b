"""Vectors compared by their angle: one an image, or one for each token or place, or everything as one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from edgevit.metrics.classification import Accuracy, wilson
from edgevit.metrics.difference import Difference
from edgevit.metrics.predicted_loss import CONFIDENCE, PredictedLoss

Vectors = npt.NDArray[Any]
KEPT = 0.995  # cosine from which an image counts as unchanged: its vectors are off by a tenth
LOST = "% of the cosine lost"


def cosines(found: Vectors, reference: Vectors) -> npt.NDArray[np.float64]:
    """The cosine of each image's vectors [n, ..., width], their mean where it has several: [n].

    Of two zero vectors it is one; of one alone, zero.
    """
    ours, theirs = found.astype(np.float64), reference.astype(np.float64)
    ours_norm, theirs_norm = np.linalg.norm(ours, axis=-1), np.linalg.norm(theirs, axis=-1)
    product = np.einsum("...i,...i->...", ours, theirs)
    tiny = np.finfo(np.float64).tiny
    cosine = product / np.maximum(ours_norm * theirs_norm, tiny)
    cosine = np.where((ours_norm < tiny) & (theirs_norm < tiny), 1.0, cosine)
    mean: npt.NDArray[np.float64] = np.clip(cosine, -1.0, 1.0).reshape(len(cosine), -1).mean(1)
    return mean


def by_cosine(cosine: npt.NDArray[np.float64]) -> Difference:
    """What a cosine an image says; `kl` is one minus it."""
    lost = 1 - cosine
    return Difference(
        n=len(cosine),
        agreement=float((cosine >= KEPT).mean()),
        kl=float(lost.mean()),
        median_kl=float(np.median(lost)),
        cosine=float(cosine.mean()),
    )


def loss_by(
    lost: npt.NDArray[np.float64],
    cosine: float,
    words: tuple[str, str] = (LOST, ""),
    changes: npt.NDArray[np.float64] | None = None,
) -> PredictedLoss:
    """A predicted loss of what each image lost and of the share of its answers that changed, [n] each."""
    changed = np.zeros(1) if changes is None else changes
    return PredictedLoss(
        points=100 * float(lost.mean()),
        upper=100 * upper(lost),
        changes=100 * float(changed.mean()),
        changes_upper=100 * upper(changed),
        agreement=1 - float(changed.mean()),
        cosine=cosine,
        kl=float(lost.mean()),
        images=len(lost),
        words=words,
    )


def upper(values: npt.NDArray[np.float64]) -> float:
    """The mean with one-sided 95 % confidence."""
    return float(values.mean() + CONFIDENCE * values.std() / math.sqrt(len(values)))


def told(
    cosine: npt.NDArray[np.float64],
    kept: npt.NDArray[np.float64] | None = None,
    spoilt: npt.NDArray[np.float64] | None = None,
    **more: Any,
) -> Accuracy:
    """The figures of one output: cosines an image, the share of its answers that stayed, what of it is spoilt,
    [n] each.

    `spoilt` None is what is gone of the cosine; figures by labels among `more` take its place.
    """
    by_image = 1 - cosine if spoilt is None else spoilt
    half = 1.96 * float(by_image.std(ddof=1)) / math.sqrt(len(by_image)) if len(by_image) > 1 else 1.0
    mean = float(by_image.mean())
    more = {
        "drop_points": 100 * mean,
        "drop_low": 100 * (mean - half),
        "drop_high": 100 * (mean + half),
        **more,
    }
    share = (cosine >= KEPT).astype(np.float64) if kept is None else kept
    low, high = interval(share)
    return Accuracy(
        n=len(cosine),
        agreement=float(share.mean()),
        agreement_low=low,
        agreement_high=high,
        kl=float((1 - cosine).mean()),
        cosine=float(cosine.mean()),
        cosine_low=float(np.quantile(cosine, 0.05)),
        cosine_worst=float(cosine.min()),
        **more,
    )


def interval(shares: npt.NDArray[np.float64]) -> tuple[float, float]:
    """95 % interval of the mean of shares [n], 0..1: Wilson's for yes or no, else by their spread over images."""
    n, mean = len(shares), float(shares.mean())
    if np.isin(shares, (0.0, 1.0)).all():
        return wilson(round(mean * n), n)
    half = 1.96 * float(shares.std(ddof=1)) / math.sqrt(n) if n > 1 else 1.0
    return max(0.0, mean - half), min(1.0, mean + half)


def difference(found: Any, reference: Any) -> Difference:
    """Vectors [n, ..., width]."""
    return by_cosine(cosines(found, reference))


def predicted(found: Any, reference: Any, more: Any, scale: float | None) -> PredictedLoss:
    """Vectors [n, ..., width]."""
    cosine = cosines(found, reference)
    return loss_by(1 - cosine, float(cosine.mean()))


def compare(found: Any, reference: Any, labels: Any) -> Accuracy:
    """Vectors [n, ..., width]."""
    return told(cosines(found, reference))


def sampled(outputs: Any, generator: Any) -> Any:
    """Σ u·z of unit vectors u [n, ..., width], z standard normal.

    Half of its squared gradients times δ² is what an error δ takes from the cosine.
    """
    import torch

    unit = torch.nn.functional.normalize(outputs, dim=-1)
    places = math.prod(outputs.shape[1:-1])
    noise = torch.randn(unit.shape, generator=generator)
    return (unit * noise).sum() / math.sqrt(places)


def flat(values: Any) -> Any:
    """[n, all]"""
    return values.reshape(len(values), -1)


def alike(found: Any, reference: Any) -> npt.NDArray[np.float64]:
    """The cosine of everything of an image as one vector, [n].

    A single number an image, such as an age, has no angle: it is off by a share e of all images' root mean square,
    and 1 - e²/2 stands for a cosine, which is as far from one where a vector is off by so much.
    """
    ours, theirs = flat(found), flat(reference)
    if ours.shape[1] > 1:
        return cosines(ours, theirs)
    return np.maximum(1 - relative_errors(ours, theirs) ** 2 / 2, -1.0)


def flat_difference(found: Any, reference: Any) -> Difference:
    """Everything of an image as one vector."""
    return by_cosine(alike(found, reference))


def flat_predicted(found: Any, reference: Any, more: Any, scale: float | None) -> PredictedLoss:
    """Everything of an image as one vector."""
    cosine = alike(found, reference)
    return loss_by(1 - cosine, float(cosine.mean()))


def flat_sampled(outputs: Any, generator: Any) -> Any:
    """Everything of an image as one vector."""
    import torch

    rows = flat(outputs)
    if rows.shape[1] > 1:
        return sampled(rows, generator)
    size = rows.detach().square().mean().sqrt().clamp(min=1e-12)
    return (rows / size * torch.randn(rows.shape, generator=generator)).sum()


def flat_compare(found: Any, reference: Any, labels: Any) -> Accuracy:
    """Everything of an image as one vector, and its relative error."""
    error = float(relative_errors(flat(found), flat(reference)).mean())
    return told(alike(found, reference), relative_error=error)


def relative_errors(found: Vectors, reference: Vectors) -> npt.NDArray[np.float64]:
    """Norm of the difference over the reference's, of vectors [n, width]; of single numbers over all images'."""
    theirs = reference.astype(np.float64)
    sizes = np.linalg.norm(theirs, axis=-1)
    if theirs.shape[1] == 1:
        sizes = np.sqrt(np.mean(sizes**2))
    errors: npt.NDArray[np.float64] = np.linalg.norm(found - theirs, axis=-1) / np.maximum(sizes, 1e-12)
    return errors
