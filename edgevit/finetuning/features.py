"""A frozen backbone: its features computed once, and the best linear classifier of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch.nn import functional

from edgevit.finetuning.pictures import Pictures, Views, plain
from edgevit.images.preprocessing import Preprocessing
from edgevit.progress import Progress

Tensor = torch.Tensor
BATCH = 16
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)  # of the penalty on weights of standardised features
STEPS = 200


def features(
    trunk: Callable[[Tensor], Tensor],
    paths: Sequence[Path],
    read: Callable[[Sequence[Path]], Tensor],
    device: torch.device,
    told: Callable[[int], None],
) -> Tensor:
    """What the classifier would read of each picture, [n, width]."""
    found = []
    for start in range(0, len(paths), BATCH):
        found.append(trunk(read(paths[start : start + BATCH]).to(device)).float().cpu())
        told(min(start + BATCH, len(paths)))
    return torch.cat(found)


def gather(
    trunk: Callable[[Tensor], Tensor],
    pictures: Pictures,
    preprocessing: Preprocessing,
    device: torch.device,
    *,
    seconds: float,
    most_views: int,
    seed: int,
    progress: Progress,
) -> tuple[Tensor, Tensor, Tensor]:
    """Features of the pictures learnt from, [n, width], their labels, and features of those held out.

    Each picture as it is, then random views of it while the time allows: so many passes at most.
    """
    paths, labels = pictures.images.paths, pictures.labels
    learnt = [paths[row] for row in pictures.learnt]
    begun = time.monotonic()

    def told(what: str, done: int, total: int) -> None:
        progress.advance(done, total, what)

    def as_is(some: Sequence[Path]) -> Tensor:
        return plain(some, preprocessing)

    held_out = [paths[row] for row in pictures.held_out]
    kept = features(
        trunk,
        held_out,
        as_is,
        device,
        lambda done: told("features of held-out pictures", done, len(held_out)),
    )
    found = [features(trunk, learnt, as_is, device, lambda done: told("features", done, len(learnt)))]
    once = time.monotonic() - begun
    views = Views(preprocessing, strong=False)
    torch.manual_seed(seed)
    while len(found) < most_views and time.monotonic() - begun + once < seconds:
        number = len(found)
        found.append(
            features(
                trunk,
                learnt,
                lambda some: torch.stack([views(path) for path in some]),
                device,
                lambda done, number=number: told(f"features of views {number}", done, len(learnt)),  # type: ignore[misc]
            )
        )
    return torch.cat(found), labels[list(pictures.learnt)].repeat(len(found)), kept


def fit_classifier(
    found: Tensor, labels: Tensor, held_out: Tensor, held_out_labels: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, float]:
    """Weight [classes, width] and bias of the multinomial logistic regression that holds best on held-out features.

    Features are standardised and the penalty is chosen among STRENGTHS by the likelihood of the held-out labels.
    `weights` [classes] count each class. Returns the share of held-out labels that are right too.
    """
    mean, deviation = found.mean(0), found.std(0).clamp(min=1e-6)
    inputs, others = (found - mean) / deviation, (held_out - mean) / deviation
    classes = len(weights)
    best: tuple[float, Tensor, Tensor, float] | None = None
    for strength in STRENGTHS:
        weight = torch.zeros(classes, found.shape[1], requires_grad=True)
        bias = torch.zeros(classes, requires_grad=True)
        optimizer = torch.optim.LBFGS([weight, bias], max_iter=STEPS, line_search_fn="strong_wolfe")

        def loss(
            optimizer: torch.optim.LBFGS = optimizer,
            weight: Tensor = weight,
            bias: Tensor = bias,
            strength: float = strength,
        ) -> Tensor:
            optimizer.zero_grad()
            found_loss = functional.cross_entropy(inputs @ weight.T + bias, labels, weights)
            total = found_loss + strength * weight.square().sum()
            total.backward()  # type: ignore[no-untyped-call]
            return total

        optimizer.step(loss)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            outputs = others @ weight.T + bias
            held = float(functional.cross_entropy(outputs, held_out_labels))
            right = float((outputs.argmax(1) == held_out_labels).float().mean())
            if best is None or held < best[0]:
                folded = weight / deviation
                best = held, folded.detach(), (bias - folded @ mean).detach(), right
    assert best is not None
    return best[1:]
