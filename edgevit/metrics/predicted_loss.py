"""How much accuracy will be lost, estimated without labels: the float model's own probabilities stand for them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax, softmax

from edgevit.metrics.difference import as_rows, difference

CONFIDENCE = 1.645  # one-sided 95 %
# Changed predictions, in percent, that cost a point of accuracy: every fifth is a net loss, lost and none won
# for it. Over artefacts that change fewer than 5 % of 744 predictions, net losses are 0.10 of the changes, with
# 95 % confidence below 0.21 (benchmarks/precision/net_losses.py).
CHANGES_PER_POINT = 5.0
RIVALS = 4  # classes next to the predicted one that may overtake it


@dataclass(frozen=True)
class PredictedLoss:
    """Accuracy lost, estimated without labels: `points` expected, `upper` with 95 % confidence.

    `changes` is the share of predictions expected to change, in percent, `changes_upper` with 95 % confidence;
    `agreement` the share that did not on these images, 0..1, which so few images count coarsely. `calibrated`:
    labels have shown how far the float model's probabilities are to be trusted. `changes_per_point`: so many
    changed answers, in percent, cost a point of accuracy. `words` name what `points` and `changes` count, where
    outputs are no class scores.
    """

    points: float
    upper: float
    changes: float
    changes_upper: float
    agreement: float
    cosine: float
    kl: float
    images: int
    calibrated: bool = False
    changes_per_point: float = CHANGES_PER_POINT
    words: tuple[str, str] = ("points expected drop", "% changed predictions")

    def __post_init__(self) -> None:
        object.__setattr__(self, "words", tuple(self.words))  # JSON has lists

    def describe(self) -> str:
        """What is expected, in a phrase."""
        lost, changed = self.words
        labelled = "labelled " if self.calibrated else ""
        answers = (
            f" and {self.changes:.1f} {changed} (95 % below {self.changes_upper:.1f})" if changed else ""
        )
        return (
            f"{self.points:.2f} {lost} (95 % below {self.upper:.2f}){answers} by {self.images} "
            f"{labelled}calibration images"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values for the manifest."""
        return asdict(self)


def predict_loss(
    found: npt.ArrayLike,
    reference: npt.ArrayLike,
    more: npt.ArrayLike | None = None,
    *,
    scale: float | None = None,
) -> PredictedLoss:
    """Compare outputs [n, classes] with the float model's on the same images.

    A hundred images show few changed predictions, by luck none. So all pairs (error of one
    image, margin of another) are counted (a two-sample U-statistic), and the float model's
    own probabilities stand for the labels: a change from class a to class b costs p(a) - p(b). `more` are float
    outputs [m, classes] whose margins to use, of more images than were compared. `scale` is the factor on outputs
    that labels bear out (`confidence.trusted_scale`).
    """
    factor = 1.0 if scale is None else scale
    ours, theirs = factor * as_rows(found), factor * as_rows(reference)
    margins, worth, leading = leads(theirs if more is None else factor * as_rows(more))
    if more is not None:
        leading = leads(theirs)[2]
    rows = np.arange(len(theirs))[:, None]
    moved = ours - theirs
    errors = moved[rows, leading[:, :1]] - moved[rows, leading[:, 1:]]
    remaining = margins[None] + errors[:, None]  # [errors of image, margins of image, rivals]
    change = remaining.min(2) < 0
    costs = np.where(change, worth[np.arange(len(worth)), remaining.argmin(2)], 0.0)
    apart = difference(found, reference)
    return PredictedLoss(
        points=100 * float(costs.mean()),
        upper=100 * upper_bound(costs),
        changes=100 * float(change.mean()),
        changes_upper=100 * upper_bound(change.astype(np.float64)),
        agreement=apart.agreement,
        cosine=apart.cosine,
        kl=apart.kl,
        images=apart.n,
        calibrated=scale is not None,
    )


def predicted_points(found: npt.ArrayLike, reference: npt.ArrayLike) -> float:
    """Points of top-1 that a smaller model is expected to lose, by the predictions that changed on these images.

    For changes so large that images show enough of them: the float model's probability of its prediction minus
    that of the smaller model's. As good as the float model is calibrated; never negative.
    """
    probabilities = softmax(as_rows(reference), axis=1)
    rows = np.arange(len(probabilities))
    kept = probabilities[rows, np.asarray(found).argmax(1)]
    return 100 * float((probabilities.max(1) - kept).mean())


def upper_bound(pairs: npt.NDArray[np.float64]) -> float:
    """The mean of [errors of image, margins of image] with 95 % confidence: images of both sorts were drawn."""
    spread = np.hypot(
        pairs.mean(1).std() / np.sqrt(len(pairs)), pairs.mean(0).std() / np.sqrt(pairs.shape[1])
    )
    return float(pairs.mean() + CONFIDENCE * spread)


def leads(outputs: npt.NDArray[np.float64]) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    """How far the predicted class leads its rivals [n, rivals], in outputs and probability, and which they are."""
    leading, rows = np.argsort(-outputs, axis=1)[:, : RIVALS + 1], np.arange(len(outputs))[:, None]
    found = outputs[rows, leading], np.exp(log_softmax(outputs, axis=1))[rows, leading]
    lead, worth = (values[:, :1] - values[:, 1:] for values in found)
    return lead, worth, leading
