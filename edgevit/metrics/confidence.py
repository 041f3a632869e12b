"""How far a model's probabilities are to be trusted: the scale of its logits that labels bear out."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from edgevit.metrics.difference import as_rows

CONFIDENCE = 1.645  # one-sided 95 %
WIDEST = 3.0  # scales tried: e to the power of so much, either way
FEWEST = 64  # labels below which nothing can be said


def trusted_scale(outputs: npt.ArrayLike, labels: npt.ArrayLike) -> float | None:
    """The factor on logits [n, classes] that makes the labels [n] likeliest, at its upper 95 % end.

    Temperature scaling ("On Calibration of Modern Neural Networks", Guo et al. 2017, arXiv 1706.04599). A model
    trained with soft labels says 60 % where it is right nine times in ten: its probabilities, taken as they are,
    promise too small a loss where a prediction changes. The upper end promises the larger one. None where there are
    fewer than FEWEST labels.
    """
    rows, right = as_rows(outputs), np.asarray(labels)
    if len(rows) < FEWEST:
        return None
    numbers = np.arange(len(rows))

    def loss(power: float) -> float:
        return -float(log_softmax(rows * math.exp(power), axis=1)[numbers, right].mean())

    best = float(minimize_scalar(loss, bounds=(-WIDEST, WIDEST), method="bounded").x)
    scaled = rows * math.exp(best)
    # The curvature of the loss by the power is the spread of the scaled logits under the model's own probabilities.
    chances = softmax(scaled, axis=1)
    spread = (chances * scaled**2).sum(1) - (chances * scaled).sum(1) ** 2
    error = 1 / math.sqrt(max(float(spread.sum()), 1e-9))
    return math.exp(min(WIDEST, best + CONFIDENCE * error))
