"""Class scores of an image: top-1, the same prediction, KL divergence."""

from __future__ import annotations

from typing import Any

from edgevit.metrics import classification
from edgevit.metrics import difference as metrics
from edgevit.metrics.predicted_loss import PredictedLoss, predict_loss

difference = metrics.difference
compare = classification.compare


def predicted(found: Any, reference: Any, more: Any, scale: float | None) -> PredictedLoss:
    """By the float model's margins and probabilities."""
    return predict_loss(found, reference, more, scale=scale)


def sampled(outputs: Any, generator: Any) -> Any:
    """Σ log p(y) of classes y drawn from outputs [n, classes]."""
    import torch

    drawn = torch.multinomial(outputs.detach().softmax(-1), 1, generator=generator)
    return outputs.log_softmax(-1).gather(1, drawn).sum()
