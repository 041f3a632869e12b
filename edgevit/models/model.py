"""A loaded model, and the checks that every loader's result passes."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from edgevit.errors import InputError, ParityError
from edgevit.images.preprocessing import Preprocessing
from edgevit.models.canonical import why_not_canonical
from edgevit.models.checkpoint import one_line

if TYPE_CHECKING:
    from onnx import ModelProto

PARITY_TOLERANCE = 1e-4
PARITY_IMAGES = 2
ASSUMED = "preprocessing assumed"  # in the note of a loader that found none


@dataclass(frozen=True)
class LoadedModel:
    """A classifier ready to convert: eval mode, float32, no gradients.

    `module` maps normalised images float32 [n, channels, height, width] to logits [n, num_classes]. `parity`
    is the largest absolute logit difference between `module` and the original it was mapped from, None where
    nothing was mapped. `notes` are sentences for the user about choices the loader made; `preprocessing_from` says
    in words where the preprocessing was found. `graph` is set where the model is an ONNX graph, which `module`
    only runs: torch can't export it.
    """

    name: str
    module: nn.Module
    preprocessing: Preprocessing
    num_classes: int
    canonical: bool
    source: str
    labels: tuple[str, ...] | None = None
    parity: float | None = None
    notes: tuple[str, ...] = ()
    preprocessing_from: str = ""
    graph: ModelProto | None = None


def finish(
    name: str,
    module: nn.Module,
    preprocessing: Preprocessing,
    *,
    source: str,
    num_classes: int | None = None,
    labels: tuple[str, ...] | None = None,
    parity: float | None = None,
    notes: Sequence[str] = (),
    preprocessing_from: str = "its own configuration",
) -> LoadedModel:
    """The loaded model, after one forward that shows it gives finite logits of the expected number.

    `num_classes` None takes what the forward gives. Raises InputError where the forward fails or gives
    something other than logits.
    """
    module = module.eval().cpu().float().requires_grad_(False)
    found = count_classes(name, module, preprocessing)
    if num_classes is not None and num_classes != found:
        raise InputError(
            f"cannot load {name} with {num_classes} classes",
            f"it gives {found} logits",
            f"Ask for {found} classes, or give the weights of a model with {num_classes}",
        )
    problem = why_not_canonical(module)
    if problem is not None:
        notes = [*notes, f"rewrites for plain ViTs are left out: {problem}"]
    return LoadedModel(
        name=name,
        module=module,
        preprocessing=preprocessing,
        num_classes=found,
        canonical=problem is None,
        source=source,
        labels=labels if labels is not None and len(labels) == found else None,
        parity=parity,
        notes=tuple(notes),
        preprocessing_from="assumed" if any(ASSUMED in note for note in notes) else preprocessing_from,
    )


def count_classes(name: str, module: nn.Module, preprocessing: Preprocessing) -> int:
    """Logits the module gives for an image of its size."""
    shape = (1, len(preprocessing.mean), *preprocessing.size)
    given = "x".join(str(length) for length in shape)
    try:
        with torch.inference_mode():
            logits: Any = module(torch.zeros(shape))
    except Exception as error:
        raise InputError(
            f"cannot run {name} on a {given} input",
            f"{one_line(error)}{where(error)}",
            "Give a model that takes one image tensor [n, channels, height, width] of this size",
        ) from error
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2 or logits.shape[0] != 1:
        got = f"shape {list(logits.shape)}" if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise InputError(
            f"cannot load {name}", f"its output is not logits [n, classes] but {got}", "Give a classifier"
        )
    if not torch.isfinite(logits).all():
        raise InputError(
            f"cannot load {name}", "its logits for a blank image are not finite", "Check the weights"
        )
    return int(logits.shape[1])


def where(error: BaseException, within: Path | None = None) -> str:
    """ " (file.py:12)": the innermost frame of an exception, in the file `within` where it passed there."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if within is None or Path(frame.filename) == within]
    frame = (own or list(frames))[-1]
    return f" ({Path(frame.filename).name}:{frame.lineno})"


def prove_equal(
    name: str,
    mapped: Callable[[torch.Tensor], torch.Tensor],
    original: Callable[[torch.Tensor], torch.Tensor],
    preprocessing: Preprocessing,
) -> float:
    """Largest absolute logit difference on seeded normal images. Raises ParityError beyond 1e-4."""
    generator = torch.Generator().manual_seed(0)
    shape = (PARITY_IMAGES, len(preprocessing.mean), *preprocessing.size)
    images = torch.randn(shape, generator=generator)
    with torch.inference_mode():
        difference = float((mapped(images) - original(images)).abs().max())
    if not difference <= PARITY_TOLERANCE:
        raise ParityError(
            f"cannot map {name} to the canonical ViT",
            f"logits differ by {difference:.1e}, more than {PARITY_TOLERANCE:.0e}",
            "Report this model; a Python file that builds it (file.py:function) converts without the mapping",
        )
    return difference
