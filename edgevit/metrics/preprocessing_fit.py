"""Whether a model's outputs say that its images are prepared in another way than it was trained with."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax

from edgevit.metrics.difference import as_rows

# Standard errors by which an alternative must be better to be believed: rarer than once in a thousand with labels,
# in ten thousand without, where the right preprocessing must never be suspected.
SURE_WITH_LABELS, SURE_WITHOUT = 3.1, 4.0
HOPELESS = -1.0  # standard errors on few images below which an alternative is not looked at again

Outputs = npt.NDArray[Any]


@dataclass(frozen=True)
class Fit:
    """How one preprocessing compares with another on the same images.

    `better_by` is the mean gain of an image over its standard error; `top1` of both, 0..1, None without labels.
    """

    better_by: float
    top1: float | None
    other_top1: float | None

    @property
    def sure(self) -> bool:
        """Whether the images say that it is the better one, beyond chance."""
        if self.top1 is None or self.other_top1 is None:
            return self.better_by > SURE_WITHOUT
        # Few images count right answers coarsely: a little worse by them is no objection to so clear a gain.
        needed = SURE_WITH_LABELS if self.top1 >= self.other_top1 else 2 * SURE_WITH_LABELS
        return self.better_by > needed

    @property
    def hopeless(self) -> bool:
        """Whether more images can hardly make it the better one."""
        return self.better_by < HOPELESS


def fit_of(found: Outputs, other: Outputs, labels: npt.NDArray[Any] | None) -> Fit:
    """Compare outputs [n, classes] of one preprocessing with those of another, paired by image."""
    gains = score(found, labels) - score(other, labels)
    error = float(gains.std()) / math.sqrt(len(gains))
    better_by = float(gains.mean()) / max(error, 1e-9)
    if labels is None:
        return Fit(better_by, None, None)
    ours, theirs = (float((each.argmax(1) == labels).mean()) for each in (found, other))
    return Fit(better_by, ours, theirs)


def score(outputs: Outputs, labels: npt.NDArray[Any] | None) -> npt.NDArray[np.float64]:
    """How well each image goes with the model, in nats [n]: the more the better.

    With labels the log-likelihood of the right class. Without, what the image's prediction tells beyond the mean
    of all predictions: the mean over images is the mutual information of images and classes ("Unsupervised
    Classifiers, Mutual Information and 'Phantom Targets'", Bridle et al. 1991). Sureness alone would not do: a
    model whose images are far from those it knows may give all of them one class, and be sure of it.
    """
    chances = log_softmax(as_rows(outputs), axis=1)
    if labels is not None:
        return np.asarray(chances[np.arange(len(chances)), labels])
    usual = np.log(np.exp(chances).mean(0).clip(1e-30))
    return np.asarray((np.exp(chances) * (chances - usual)).sum(1))
