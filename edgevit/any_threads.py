"""Sums and gradients that are the same, to the last bit, on any number of threads.

Two of torch's are not: a full sum adds up a part for each thread, and the gradient of softmax shares rows among
threads and sums the last few of each share in another order. A rotation learned by gradients ends elsewhere after a
change of one bit, and so do all decisions after it: a conversion beside others, on fewer threads, would not be the
one made alone.
"""

from __future__ import annotations

import torch


def softmax(scores: torch.Tensor, dim: int = -1) -> torch.Tensor:
    """`scores.softmax(dim)`, any shape and float dtype; where gradients are taken, but for the last bit or two.

    A program that is exported keeps its softmax: converters know it.
    """
    if torch.is_grad_enabled() and not torch.compiler.is_exporting():
        return scores.log_softmax(dim).exp()
    return scores.softmax(dim)


def total(values: torch.Tensor) -> float:
    """The sum of all values, any shape and real dtype, in float64."""
    return float(values.detach().numpy().sum(dtype="float64"))
