"""A teacher: a better model of the same classes, whose answers a fine-tuning learns beside the labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch.nn import functional

from edgevit.errors import InputError
from edgevit.images.preprocessing import Preprocessing
from edgevit.models import load_model

Tensor = torch.Tensor
# Both see the same mixed views, as a patient teacher should: Beyer et al. 2022, arXiv 2106.05237.
SHARE, TEMPERATURE = 0.5, 2.0


def teacher_of(
    name: str,
    weights: Path | None,
    names: Sequence[str],
    preprocessing: Preprocessing,
    device: torch.device,
) -> Callable[[Tensor], Tensor]:
    """A function from views [n, channels, height, width], normalised by the learner's `preprocessing`, to scores
    [n, classes].

    Raises InputError where the teacher has other classes than the pictures, or takes other channels.
    """
    loaded = load_model(name, weights)
    what, theirs = f"cannot learn from the teacher {name}", loaded.preprocessing
    if loaded.num_classes != len(names):
        why = f"it gives {loaded.num_classes or 'no'} classes, and the pictures have {len(names)}"
        raise InputError(what, why, "Fine-tune it on the same pictures first, and give its folder")
    other = next(
        (pair for pair in zip(loaded.labels or names, names, strict=True) if pair[0] != pair[1]), None
    )
    if other:
        why = f"its classes are named otherwise: {other[0]} where the pictures have {other[1]}"
        raise InputError(what, why, "Fine-tune it on the same pictures first, and give its folder")
    if len(theirs.mean) != len(preprocessing.mean):
        raise InputError(what, f"it takes {theirs.channels} images", "Give one that takes the same channels")
    module = loaded.module.eval().requires_grad_(False).to(device)
    own = constants(preprocessing, device)
    wanted = constants(theirs, device)
    swapped = theirs.channels != preprocessing.channels

    def scores(views: Tensor) -> Tensor:
        pixels = views * own[1] + own[0]
        if swapped:
            pixels = pixels.flip(1)
        if theirs.size != preprocessing.size:
            pixels = functional.interpolate(pixels, theirs.size, mode="bicubic", antialias=True).clamp(0, 1)
        with torch.no_grad():
            found: Tensor = module((pixels - wanted[0]) / wanted[1])
        return found.float()

    return scores


def constants(preprocessing: Preprocessing, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and deviation as [channels, 1, 1]."""
    both = torch.tensor([preprocessing.mean, preprocessing.std])[..., None, None].to(device)
    return both[0], both[1]


def distance(outputs: Tensor, wanted: Tensor) -> Tensor:
    """How far scores [n, classes] are from a teacher's, [n]: KL at a temperature (Hinton et al. 2015)."""
    ours = (outputs / TEMPERATURE).log_softmax(-1)
    theirs = (wanted / TEMPERATURE).log_softmax(-1)
    return TEMPERATURE**2 * functional.kl_div(ours, theirs, reduction="none", log_target=True).sum(-1)
