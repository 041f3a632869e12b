"""Where an int8 range ends: estimators from a observed of a tensor's values.

"output-error" weighs each value's rounding error by how much the model's output depends on it, after PTQ4ViT
(arXiv 2111.12293), with the Fisher information in place of a task loss, so that it needs no labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import torch

from edgevit.any_threads import total
from edgevit.quantize.fake_quantization import fake_quantize
from edgevit.quantize.tensor_names import OUTPUT_TAP

Range = tuple[float, float]
FRACTIONS = (1.0, 0.97, 0.94, 0.9, 0.86, 0.82, 0.77, 0.72, 0.66, 0.6, 0.54, 0.48, 0.42, 0.36, 0.3)
SEPARATE = 6  # so many of them are tried at each end on its own
PERCENTILE = 99.99


@dataclass(frozen=True)
class TensorStatistics:
    """Values of one tensor: rows [n, channels] drawn at random, and the extremes of all of it.

    `gradient` [n, channels] is of log p(y) for a class y drawn from the model's own prediction, so that
    `effect` estimates a KL divergence. `low` and `high` are the smallest and largest value of every image,
    `per_image` how many rows an image has.
    """

    rows: torch.Tensor
    gradient: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor
    per_image: int

    @property
    def full(self) -> Range:
        """Smallest and largest value seen, 0 included."""
        return min(0.0, float(self.low.min())), max(0.0, float(self.high.max()))

    @property
    def importance(self) -> float:
        """The KL divergence per image (nats) that independent errors of variance 1 would cause."""
        return total(self.gradient.square()) / len(self.rows) * self.per_image / 2

    def effect(self, span: Range) -> float:
        """The KL divergence per image (nats) that rounding to `span` causes, if errors are independent."""
        weight = self.gradient.square()
        return squared_error(self.rows, weight, span) * self.per_image / 2


def minmax(observed: TensorStatistics) -> Range:
    """Everything seen."""
    return observed.full


def percentile(observed: TensorStatistics, share: float = PERCENTILE) -> Range:
    """All but the (100 - share) % most extreme values, split over both ends."""
    values = observed.rows.flatten()
    count = round((100 - share) / 200 * values.numel())
    low = float(values.kthvalue(count + 1).values)
    high = float(values.kthvalue(values.numel() - count).values)
    return min(low, 0.0), max(high, 0.0)


def mse(observed: TensorStatistics) -> Range:
    """The range with the least squared rounding and clipping error."""
    return best_range(observed, torch.ones(()))


def output_error(observed: TensorStatistics) -> Range:
    """The range with the least squared error weighed by its effect on the output."""
    return best_range(observed, observed.gradient.square())


def best_range(observed: TensorStatistics, weight: torch.Tensor) -> Range:
    """The candidate with the least weighed squared error; the wider one on a tie."""
    return min(candidates(observed.full), key=lambda span: squared_error(observed.rows, weight, span))


def squared_error(rows: torch.Tensor, weight: torch.Tensor, span: Range) -> float:
    """Σ weight · (rounded - value)² per row."""
    difference = fake_quantize(rows, *span).sub_(rows)
    return total(difference.square_() * weight) / len(rows)


def candidates(full: Range) -> Iterator[Range]:
    """Ranges inside the full one, widest first; an end at zero stays there."""
    both = [(fraction, fraction) for fraction in FRACTIONS]
    apart = [pair for pair in product(FRACTIONS[:SEPARATE], repeat=2) if pair[0] != pair[1]]
    yield from dict.fromkeys((full[0] * down, full[1] * up) for down, up in both + apart)


OBSERVERS: dict[str, Callable[[TensorStatistics], Range]] = {
    "minmax": minmax,
    "percentile": percentile,
    "mse": mse,
    "output-error": output_error,
}


def choose_range(kind: str, observed: TensorStatistics, observer: str) -> Range:
    """The observer's range for a tensor of this kind, with what is known about the kind beforehand.

    Softmax starts at 0 and is never cut at the top: a row that attends to one token has its whole weight
    there. A GELU's output reaches down to -0.17 whatever the images, which costs little to cover.
    """
    if kind in ("softmax", "input", OUTPUT_TAP):
        return observed.full
    low, high = OBSERVERS[observer](observed)
    return (observed.full[0], high) if kind == "gelu" else (low, high)
