"""How far two sets of outputs are from each other: agreement, KL divergence, cosine. Each is computed here only.

Arguments come in one order everywhere: what was found, then the reference; arrays and CPU tensors alike.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax

FLOOR = 1e-9  # of an error, before errors are multiplied


@dataclass(frozen=True)
class Difference:
    """Outputs against a reference on `n` images.

    Agreement of predictions is 0..1, KL in nats per image (mean and median), cosine the mean over images.
    """

    n: int
    agreement: float
    kl: float
    median_kl: float
    cosine: float

    @property
    def error_score(self) -> float:
        """Geometric mean of three errors. One alone misleads: few images decide a mean, none a median."""
        errors = (self.kl, self.median_kl, 1 - self.cosine)
        return float(np.prod([max(error, FLOOR) for error in errors]) ** (1 / 3))

    def to_json(self) -> dict[str, Any]:
        """Plain values for the manifest."""
        return asdict(self)


def difference(found: npt.ArrayLike, reference: npt.ArrayLike) -> Difference:
    """Compare outputs [n, classes] with a reference's on the same images."""
    ours, theirs = as_rows(found), as_rows(reference)
    kl = kl_by_image(ours, theirs)
    return Difference(
        n=len(theirs),
        agreement=float((ours.argmax(1) == theirs.argmax(1)).mean()),
        # Rounding can put the divergence of equal predictions a hair under zero.
        kl=max(0.0, float(kl.mean())),
        median_kl=max(0.0, float(np.median(kl))),
        cosine=float(cosine_by_image(ours, theirs).mean()),
    )


def kl_by_image(found: npt.ArrayLike, reference: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """KL(softmax(reference) || softmax(found)) of outputs [n, classes], in nats, [n]."""
    theirs, ours = log_softmax(as_rows(reference), axis=1), log_softmax(as_rows(found), axis=1)
    divergence: npt.NDArray[np.float64] = (np.exp(theirs) * (theirs - ours)).sum(1)
    return divergence


def cosine_by_image(found: npt.ArrayLike, reference: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Cosine between the two output vectors of each image, [n]."""
    ours, theirs = as_rows(found), as_rows(reference)
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    cosine: npt.NDArray[np.float64] = (ours * theirs).sum(1) / np.maximum(norms, np.finfo(np.float64).tiny)
    return cosine


def as_rows(outputs: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Outputs [n, classes] in double precision."""
    detached: Any = getattr(outputs, "detach", lambda: outputs)()  # a tensor's
    return np.asarray(detached, np.float64)
