"""A loaded model, and the checks that every loader's result passes."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from edgevit.errors import InputError, ParityError
from edgevit.images.preprocessing import Preprocessing
from edgevit.models.canonical import why_not_canonical
from edgevit.models.checkpoint import one_line
from edgevit.models.outputs import Selected, inner, kind_for, named, rows_of, with_scores
from edgevit.outputs.output import Output, Outputs

if TYPE_CHECKING:
    from onnx import ModelProto

PARITY_TOLERANCE = 1e-4
PARITY_IMAGES = 2
ASSUMED = "preprocessing assumed"  # in the note of a loader that found none


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to convert: eval mode, float32, no gradients.

    `module` maps normalised images float32 [n, channels, height, width] to its `outputs`: a tensor, or a tuple of
    several. `parity` is the largest absolute difference between `module`'s outputs and those of the original it was
    mapped from, None where nothing was mapped. `notes` are sentences for the user about choices the loader made;
    `preprocessing_from` says in words where the preprocessing was found. `graph` is set where the model is an ONNX
    graph, which `module` only runs: torch can't export it.
    """

    name: str
    module: nn.Module
    preprocessing: Preprocessing
    outputs: Outputs
    canonical: bool
    source: str
    labels: tuple[str, ...] | None = None
    parity: float | None = None
    notes: tuple[str, ...] = ()
    preprocessing_from: str = ""
    graph: ModelProto | None = None

    @property
    def num_classes(self) -> int | None:
        """How many classes it tells apart; None where it classifies no images."""
        return self.outputs.classes


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
    kinds: Mapping[str, str] | None = None,
) -> LoadedModel:
    """The loaded model, after one forward that shows what it gives, and that its numbers are finite.

    `kinds` are the outputs that a loader chose of the model's, and what it knows them to be; None takes all of
    them, for what their shapes say. `num_classes` is what the user expects. Raises InputError where the forward
    fails or gives something else.
    """
    module = module.eval().cpu().float().requires_grad_(False)
    module, outputs = look_at(name, module, preprocessing, kinds)
    found = outputs.classes
    if num_classes is not None and num_classes != found:
        raise InputError(
            f"cannot load {name} with {num_classes} classes",
            f"it gives {found} logits" if found else f"it gives {outputs.first.means.description}",
            f"Ask for {found} classes, or give the weights of a model with {num_classes}"
            if found
            else "Leave the number of classes out",
        )
    problem = why_not_canonical(inner(module))
    if isinstance(module, Selected) and problem is None:
        problem = "it gives several outputs"
    if problem is not None:
        notes = [*notes, f"rewrites for plain ViTs are left out: {problem}"]
    return LoadedModel(
        name=name,
        module=module,
        preprocessing=preprocessing,
        outputs=outputs,
        canonical=problem is None,
        source=source,
        labels=labels if labels is not None and len(labels) == found else None,
        parity=parity,
        notes=tuple(notes),
        preprocessing_from="assumed" if any(ASSUMED in note for note in notes) else preprocessing_from,
    )


def look_at(
    name: str, module: nn.Module, preprocessing: Preprocessing, kinds: Mapping[str, str] | None
) -> tuple[nn.Module, Outputs]:
    """The module with plain outputs, and what they are, for a blank image of its size."""
    shape = (1, len(preprocessing.mean), *preprocessing.size)
    given = "x".join(str(length) for length in shape)
    try:
        with torch.inference_mode():
            answer: Any = module(torch.zeros(shape))
    except Exception as error:
        raise InputError(
            f"cannot run {name} on a {given} input",
            f"{one_line(error)}{where(error)}",
            "Give a model that takes one image tensor [n, channels, height, width] of this size",
        ) from error
    found = {key: value for key, value in named(answer) if kinds is None or key in kinds}
    if not found:
        raise InputError(
            f"cannot load {name}",
            f"it gives {type(answer).__name__}, with no tensor of numbers in it",
            "Have it give a tensor, or a tuple or dict of them",
        )
    for key, value in found.items():
        if value.ndim < 2 or value.shape[0] != 1:
            raise InputError(
                f"cannot load {name}",
                f"its output {key} has shape {list(value.shape)} for one image",
                "Have every output begin with the batch: [n, ...]",
            )
        if not torch.isfinite(value).all():
            what = "logits" if key == "output" and value.ndim == 2 else f"output {key}"
            raise InputError(
                f"cannot load {name}", f"its {what} for a blank image are not finite", "Check the weights"
            )
    if not isinstance(answer, torch.Tensor) or answer.ndim == 1:
        order = list(kinds) if kinds is not None else list(found)
        # In eval mode itself: exporters put a whole module back into the mode that its outermost part is in.
        module = Selected(module, [key for key in order if key in found]).eval()
        found = {key: found[key] for key in order if key in found}
    hints = kinds or {}
    outputs = []
    for key, value in found.items():
        kind = kind_for(module, value, hints.get(key))
        outputs.append(Output(kind if key == "output" else key, kind, tuple(value.shape[1:])))
    return module, Outputs(with_scores(outputs))


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
    """Largest absolute difference of outputs on seeded normal images. Raises ParityError beyond 1e-4."""
    generator = torch.Generator().manual_seed(0)
    shape = (PARITY_IMAGES, len(preprocessing.mean), *preprocessing.size)
    images = torch.randn(shape, generator=generator)
    with torch.inference_mode():
        difference = float((rows_of(mapped(images)) - rows_of(original(images))).abs().max())
    if not difference <= PARITY_TOLERANCE:
        raise ParityError(
            f"cannot map {name} to the canonical ViT",
            f"outputs differ by {difference:.1e}, more than {PARITY_TOLERANCE:.0e}",
            "Report this model; a Python file that builds it (file.py:function) converts without the mapping",
        )
    return difference
