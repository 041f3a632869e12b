"""What a module gives, as named tensors of one order, and of which kind each of them is."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from edgevit.errors import InputError
from edgevit.models.canonical import why_not_canonical
from edgevit.models.classifier import classifier_of
from edgevit.outputs.kinds import KINDS
from edgevit.outputs.output import Output, Outputs

if TYPE_CHECKING:
    from edgevit.models.model import LoadedModel

FEATURES, STAGES = "features", 4  # what --output calls them, and how many of the last there are
UNIT = 1e-3  # from a length of one: then a vector was normalised


class Selected(nn.Module):
    """A module's chosen outputs, in order: a tensor where there is one, else a tuple of them.

    `names` are keys of a mapping or places in a sequence, as `named` tells them.
    """

    def __init__(self, module: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.module, self.names = module, tuple(names)

    @property
    def around(self) -> nn.Module:
        """What it chooses outputs of."""
        return self.module

    def forward(self, images: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        found = dict(named(self.module(images)))
        chosen = tuple(found[name] for name in self.names)
        return chosen[0] if len(chosen) == 1 else chosen


class Features(nn.Module):
    """Maps [n, channels, rows, columns] of the last stages, or blocks, of a model of timm's (features_only)."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        found = self.module.forward_intermediates(  # type: ignore[operator]
            images, indices=STAGES, output_fmt="NCHW", intermediates_only=True
        )
        return {f"features_{number}": each for number, each in enumerate(found)}


class Normalised(nn.Module):
    """A module whose output vectors [n, width] are divided by their length."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return functional.normalize(self.module(images), dim=-1)


def inner(module: nn.Module) -> nn.Module:
    """The user's own module, without what edgevit put around it to choose outputs."""
    while (within := getattr(module, "around", None)) is not None:
        module = within
    return module


def named(given: Any, prefix: str = "") -> Iterable[tuple[str, torch.Tensor]]:
    """Every floating-point tensor of a module's answer with its name: keys of a mapping, places of a sequence.

    One number an image is [n, 1].
    """
    if isinstance(given, torch.Tensor):
        if given.is_floating_point():
            yield prefix or "output", given.unsqueeze(1) if given.ndim == 1 else given
    elif isinstance(given, Mapping):
        for key, value in given.items():
            yield from named(value, joined(prefix, key))
    elif hasattr(given, "__dataclass_fields__"):
        for key in given.__dataclass_fields__:
            yield from named(getattr(given, key), joined(prefix, key))
    elif hasattr(given, "_asdict"):
        yield from named(given._asdict(), prefix)
    elif isinstance(given, list | tuple):
        for place, value in enumerate(given):
            yield from named(value, joined(prefix or "output", place))


def joined(prefix: str, key: Any) -> str:
    """A name of an output inside another."""
    return f"{prefix}_{key}" if prefix else str(key)


def parts_of(given: Any) -> Sequence[torch.Tensor]:
    """What a module with plain outputs gave: one tensor, or several."""
    return given if isinstance(given, tuple | list) else (given,)


def rows_of(given: Any) -> torch.Tensor:
    """What a module gave for n images, one row of all its outputs an image: [n, values]."""
    return torch.cat([part.float().flatten(1) for part in parts_of(given)], 1)


# One score tells no classes apart: what it is then.
ALONE = {"logits": "tensor", "segmentation": "depth"}


def kind_for(module: nn.Module, value: torch.Tensor, known: str | None) -> str:
    """The kind of an output [1, ...], as a loader knows it or as its shape says."""
    kind = known or kind_of(module, value)
    return ALONE.get(kind, kind) if value.shape[1] == 1 else kind


def kind_of(module: nn.Module, value: torch.Tensor) -> str:
    """The kind of an output by its shape [1, ...] and values, where nobody says it."""
    if value.ndim == 2:
        length = float(value.norm())
        headless = getattr(module, "num_classes", None) == 0
        return "embedding" if headless or (value.shape[1] > 1 and abs(length - 1) < UNIT) else "logits"
    if value.ndim == 4:
        return "depth" if value.shape[1] == 1 else "dense"
    if value.ndim == 3:
        inside = bool(((value >= 0) & (value <= 1)).all())
        return "boxes" if value.shape[2] == 4 and inside else "tokens"
    return "tensor"


def with_scores(outputs: Sequence[Output]) -> tuple[Output, ...]:
    """The outputs, with tokens beside as many boxes taken for the boxes' class scores."""
    queries = {output.shape[0] for output in outputs if output.kind == "boxes"}
    return tuple(
        replace(output, kind="scores") if output.kind == "tokens" and output.shape[0] in queries else output
        for output in outputs
    )


def with_requested(loaded: LoadedModel, wanted: Sequence[str], normalize: bool) -> LoadedModel:
    """The model with the outputs that the user wants, each NAME:KIND, NAME or (of its only one) KIND.

    The KIND embedding of a classifier is what its last layer reads, and features are maps of its last stages;
    NAME:KIND leaves the output as it is. `normalize` divides an embedding by its length inside the model. Raises
    InputError for an output or a kind that there is not.
    """
    if list(wanted) == [FEATURES] and FEATURES not in (each.name for each in loaded.outputs.each):
        loaded, wanted = with_features(loaded), ()
    name, module, outputs, notes = loaded.name, loaded.module, loaded.outputs, loaded.notes
    chosen = [requested(each, outputs) for each in wanted]
    places = [place for place, _ in chosen]
    if len(set(places)) < len(places):
        twice = outputs.each[max(places, key=places.count)].name
        raise InputError("cannot choose outputs", f"{twice} is named twice", "Name each output once")
    if chosen:
        features = list(wanted) == ["embedding"] and [each.kind for each in outputs.each] == ["logits"]
        if features and (last := classifier_if_any(loaded)) is not None:
            module, outputs = without_classifier(loaded.module, last)
            kept = f"--output {loaded.outputs.first.name}:embedding"
            notes += (f"the embedding is what {last} reads; for what it gives, say {kept}",)
        else:
            if places != list(range(len(outputs.each))):
                inner = module.module if isinstance(module, Selected) else module
                module = Selected(inner, [outputs.each[place].name for place in places])
            outputs = Outputs(tuple(output for _, output in chosen))
    for output in outputs.each:
        check_shape(name, output)
    if normalize:
        if len(outputs.each) > 1 or outputs.first.kind != "embedding":
            kinds = ", ".join(each.kind for each in outputs.each)
            raise InputError(
                "cannot use --normalize",
                f"{name} gives {kinds}, not one embedding",
                "Choose one with --output NAME:embedding, or leave --normalize out",
            )
        module = Normalised(module)
    if loaded.graph is not None and module is not loaded.module:
        raise InputError(
            f"cannot change the outputs of {name}",
            "it is an ONNX graph, whose outputs are what they are",
            "Export the graph with the outputs that are wanted",
        )
    fits = loaded.labels is not None and outputs.classes == len(loaded.labels)
    canonical = loaded.canonical and why_not_canonical(module) is None
    return replace(
        loaded,
        module=module.eval().requires_grad_(False),
        outputs=outputs,
        notes=notes,
        canonical=canonical,
        labels=loaded.labels if fits else None,
    )


def with_features(loaded: LoadedModel) -> LoadedModel:
    """A model of timm's that gives maps of its last stages. Raises InputError for one that can't."""
    what = f"cannot take the features of {loaded.name}"
    whole = inner(loaded.module)
    if not callable(getattr(whole, "forward_intermediates", None)):
        why = "only timm's models tell what they compute on the way"
        raise InputError(what, why, "Name a timm model, or write a file.py:function that returns the maps")
    module = Features(whole).eval()
    shape = (1, len(loaded.preprocessing.mean), *loaded.preprocessing.size)
    try:
        with torch.inference_mode():
            found = module(torch.zeros(shape))
    except Exception as error:  # of timm's own code: some have no stages that make maps
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(what, why, "Write a file.py:function that returns the maps") from error
    outputs = tuple(Output(name, "dense", tuple(value.shape[1:])) for name, value in found.items())
    return replace(loaded, module=Selected(module, list(found)), outputs=Outputs(outputs), canonical=False)


def classifier_if_any(loaded: LoadedModel) -> str | None:
    """The path of the linear layer that gives a model's output; None where none does."""
    try:
        return classifier_of(loaded.name, loaded.module, loaded.preprocessing)
    except InputError:
        return None


def without_classifier(model: nn.Module, path: str) -> tuple[nn.Module, Outputs]:
    """A copy of a classifier that gives what its last linear layer, at `path`, reads."""
    module = copy.deepcopy(model)
    owner, _, last = path.rpartition(".")
    width = int(module.get_submodule(path).in_features)  # type: ignore[arg-type]
    setattr(module.get_submodule(owner), last, nn.Identity())
    return module, Outputs((Output("embedding", "embedding", (width,)),))


def requested(text: str, outputs: Outputs) -> tuple[int, Output]:
    """One --output: its place among the model's, and what it is now."""
    name, _, kind = text.partition(":")
    names = [output.name for output in outputs.each]
    what = f"cannot use --output {text[:80]}"
    if not kind and name in KINDS and name not in names and len(names) == 1:
        return 0, Output(name, name, outputs.first.shape)
    if name not in names:
        raise InputError(what, f"the model has no output {name[:80]}", f"It has {', '.join(names)}")
    if kind and kind not in KINDS:
        raise InputError(what, f"there is no kind {kind[:80]}", f"Choose from {', '.join(KINDS)}")
    place = names.index(name)
    return place, replace(outputs.each[place], kind=kind or outputs.each[place].kind)


RANKS = {"logits": 1, "embedding": 1, "segmentation": 3, "dense": 3, "tokens": 2, "boxes": 2, "scores": 2}


def check_shape(name: str, output: Output) -> None:
    """Raises InputError where an output of this kind has another shape."""
    rank = RANKS.get(output.kind)
    wrong = rank is not None and len(output.shape) != rank
    if output.kind in ALONE and output.shape[0] == 1:
        raise InputError(
            f"cannot take {output.name} of {name} for {output.kind}",
            "it gives one score, and one alone tells no classes apart",
            f"Leave its kind out, or say {ALONE[output.kind]}",
        )
    if wrong or (output.kind == "boxes" and output.shape[-1] != 4):
        shown = ", ".join(map(str, ("n", *output.shape)))
        raise InputError(
            f"cannot take {output.name} of {name} for {output.kind}",
            f"it is [{shown}], and {output.kind} are {output.means.description}",
            "Leave its kind out, or say tensor",
        )
