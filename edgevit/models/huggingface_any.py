"""A Hugging Face directory of any image model that the installed transformers has; none of its code runs."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgevit.errors import InputError
from edgevit.images.preprocessing import Preprocessing
from edgevit.models.checkpoint import one_line
from edgevit.models.huggingface_config import CONFIG, PREPROCESSOR, Preprocessor, read_json
from edgevit.models.huggingface_preprocessing import (
    geometry,
    preprocessing_from,
    preprocessing_of,
    recorded,
)
from edgevit.models.model import LoadedModel, finish
from edgevit.models.outputs import named

# What a head gives, by what transformers' name of its class holds, the first that does: the outputs worth having,
# and their kinds. Of any other class all is taken but what is meant for training or for looking into it.
HEADS: dict[str, dict[str, str]] = {
    "ForImageClassification": {"logits": "logits"},
    "ForSemanticSegmentation": {"logits": "segmentation"},
    "ForDepthEstimation": {"predicted_depth": "depth"},
    "ForObjectDetection": {"pred_boxes": "boxes", "logits": "scores"},
    "WithProjection": {"image_embeds": "embedding"},
}
BODY = {"embedding": "embedding"}  # of a class that ends in Model
KNOWN = {name: kind for head in HEADS.values() for name, kind in head.items() if name != "logits"}
WITHIN = ("last_hidden_state", "intermediate_", "attentions", "auxiliary", "loss")
USUAL_SIZE = 224
SMALL = 384  # from which processors with a crop_pct no longer crop


class Answers(nn.Module):
    """What a transformers model's head gives for images [n, channels, height, width]: a dict of its outputs.

    A model without a head gives an embedding: what its pooler makes, or its first token. `flipped`: it takes BGR.
    """

    def __init__(self, model: nn.Module, outputs: Iterable[str], *, flipped: bool, pooled: bool) -> None:
        super().__init__()
        self.model, self.outputs, self.flipped, self.pooled = model, tuple(outputs), flipped, pooled

    @property
    def around(self) -> nn.Module:
        """What gives the answers."""
        return self.model

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        found = self.model(pixel_values=images.flip(1) if self.flipped else images)
        if self.outputs != tuple(BODY):
            given = dict(named(found))
            return {name: given[name] for name in self.outputs}
        pooled = found.pooler_output if self.pooled else found.last_hidden_state[:, 0]
        return {"embedding": pooled.flatten(1)}


def load(
    folder: Path,
    architecture: str,
    *,
    labels: tuple[str, ...] | None = None,
    num_classes: int | None = None,
    size: tuple[int, int] | None = None,
) -> LoadedModel:
    """The model of a directory by transformers' own class, its image processor as preprocessing.

    Raises InputError where transformers is absent, has no such class, or the weights are not all there.
    """
    what = f"cannot load {folder}"
    transformers = imported(what, architecture)
    architecture = image_side(transformers, folder, architecture)
    make = class_of(transformers, architecture, what)
    if make is None:
        raise InputError(
            what,
            f"transformers {transformers.__version__} has no image model {architecture} that edgevit knows",
            "Write a Python file that builds it and name that (file.py:function)",
        )
    silence(transformers)
    try:
        model, told = make.from_pretrained(folder, local_files_only=True, output_loading_info=True)
    except Exception as error:  # it raises whatever its parts do
        raise InputError(
            what, f"transformers says {one_line(error)}", "Copy or download the directory again"
        ) from error
    # Untrained where only the body was kept: then its first token is taken.
    pooler = {key for key in told["missing_keys"] if "pooler" in key}
    missing = sorted(set(told["missing_keys"]) - pooler)
    if missing:
        raise InputError(
            what,
            f"{len(missing)} of its weights are missing ({', '.join(missing[:3])})",
            "Copy or download the directory again, or train its classifier first",
        )
    return answering(
        folder, model, transformers, size, pooled=not pooler, labels=labels, num_classes=num_classes
    )


def for_classes(
    folder: Path, names: tuple[str, ...], *, size: tuple[int, int] | None = None
) -> tuple[LoadedModel, Any]:
    """The model of a directory with an untrained classifier of these classes, and transformers' own object of it.

    Raises InputError where transformers has no classifier of its kind, or other weights are missing.
    """
    what = f"cannot fine-tune {folder}"
    transformers = imported(what, "a Hugging Face directory")
    silence(transformers)
    numbers = dict(enumerate(names))
    try:
        model, told = transformers.AutoModelForImageClassification.from_pretrained(
            folder,
            num_labels=len(names),
            id2label=numbers,
            label2id={name: number for number, name in numbers.items()},
            ignore_mismatched_sizes=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except Exception as error:  # it raises whatever its parts do
        raise InputError(
            what, f"transformers says {one_line(error)}", "Name a directory of an image model's"
        ) from error
    missing = sorted(key for key in told["missing_keys"] if "classifier" not in key and "pooler" not in key)
    if missing:
        why = f"{len(missing)} of its weights are missing ({', '.join(missing[:3])})"
        raise InputError(what, why, "Copy or download the directory again")
    model = model.eval().requires_grad_(False)
    return answering(folder, model, transformers, size, pooled=True, labels=names), model


def silence(transformers: Any) -> None:
    """Leave what is said to edgevit."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def answering(
    folder: Path,
    model: Any,
    transformers: Any,
    size: tuple[int, int] | None,
    *,
    pooled: bool,
    labels: tuple[str, ...] | None,
    num_classes: int | None = None,
) -> LoadedModel:
    """A model of transformers with its image processor as preprocessing. Raises InputError."""
    what, notes = f"cannot load {folder}", list[str]()
    values, channels = processor_of(transformers, folder, what), int(getattr(model.config, "num_channels", 3))
    own = size_of(folder, model.config, values)
    if size is not None and size != own:
        raise InputError(
            f"{what} at {size[0]}x{size[1]}", f"its images are {own[0]}x{own[1]}", "Load it at its own size"
        )
    preprocessing = preprocessing_of_values(folder, values, channels, own, notes)
    name, flipped = type(model).__name__, bool(values and values.get("do_flip_channel_order"))
    with torch.inference_mode():
        try:
            answer = model(pixel_values=torch.zeros(1, len(preprocessing.mean), *preprocessing.size))
        except Exception as error:  # it may need more than pixels
            height, width = preprocessing.size
            why = f"{name} does not run on an image of {height}x{width} alone: {one_line(error)}"
            raise InputError(
                what, why, "Write a Python file that gives it what it needs (file.py:function)"
            ) from error
    kinds = kinds_of(name, answer)
    return finish(
        str(folder),
        Answers(
            model,
            kinds,
            flipped=flipped,
            pooled=pooled and getattr(answer, "pooler_output", None) is not None,
        ),
        preprocessing,
        source=f"Hugging Face {name} in {folder.name}, by transformers {transformers.__version__}",
        num_classes=num_classes,
        labels=labels,
        notes=notes,
        kinds=kinds,
    )


def kinds_of(name: str, answer: Any) -> dict[str, str]:
    """The outputs to take of a model of this class, by its answer to an image: kinds, "" where shapes tell."""
    found = dict(named(answer))
    given, tokens = list(found), found.get("last_hidden_state")
    if name.endswith("Model") and ("pooler_output" in found or tokens is not None and tokens.ndim == 3):
        return BODY
    head = next((kinds for part, kinds in HEADS.items() if part in name), {})
    if head and set(head) <= set(given):
        return head
    own = [key for key in given if not any(part in key for part in WITHIN)]
    return {key: KNOWN.get(key, "") for key in own or given}


def image_side(transformers: Any, folder: Path, architecture: str) -> str:
    """The class of a model's image side, where it has a text side too."""
    if "vision_config" not in read_json(folder, CONFIG):
        return architecture
    stem = architecture.removesuffix("Model")
    sides = [f"{stem}VisionModelWithProjection", f"{stem}VisionModel"]
    return next((each for each in sides if each in dir(transformers)), architecture)


def class_of(transformers: Any, name: str, what: str) -> Any:
    """The class of a model that takes images; None where transformers has none of this name.

    Raises InputError where it needs packages that are not there, or don't fit.
    """
    try:
        found: Any = getattr(transformers, name, None)
    except Exception as error:  # it imports what its parts need
        why = f"transformers can't import its {name}: {one_line(error)}"
        raise InputError(what, why, "Install the packages that it needs, in versions that fit") from error
    if getattr(found, "config_class", None) is None:
        return None
    return found if "pixel_values" in inspect.signature(found.forward).parameters else None


def imported(what: str, architecture: str) -> Any:
    """The transformers package. Raises InputError with the command that installs it."""
    try:
        import transformers
    except ImportError as error:
        raise InputError(
            what,
            f"{architecture} needs the package transformers, which is not installed",
            'Run "pip install transformers", or name a Python file that builds it (file.py:function)',
        ) from error
    return transformers


def processor_of(transformers: Any, folder: Path, what: str) -> dict[str, Any] | None:
    """The values of the directory's image processor with its kind's own defaults; None where there is none."""
    if not (folder / PREPROCESSOR).is_file():
        return None
    try:
        found = transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        raise InputError(
            what, f"its {PREPROCESSOR} can't be used: {one_line(error)}", "Correct it, or download it again"
        ) from error
    return dict(found.to_dict())


def size_of(folder: Path, config: Any, values: Mapping[str, Any] | None) -> tuple[int, int]:
    """(height, width) in pixels: the model's own, else what its image processor gives, else its backbone's."""
    own = getattr(config, "image_size", None)
    if own is None and values is None:
        own = getattr(getattr(config, "backbone_config", None), "image_size", USUAL_SIZE)
    if isinstance(own, int):
        return own, own
    if isinstance(own, list | tuple) and len(own) == 2:
        return int(own[0]), int(own[1])
    if values is None:
        return USUAL_SIZE, USUAL_SIZE
    found, _, _ = geometry(folder / PREPROCESSOR, read_values(values), (USUAL_SIZE, USUAL_SIZE))
    return found


def preprocessing_of_values(
    folder: Path, values: Mapping[str, Any] | None, channels: int, own: tuple[int, int], notes: list[str]
) -> Preprocessing:
    """The image processor's values as preprocessing."""
    kept = recorded(folder)
    if values is None or kept is not None:
        return kept or preprocessing_of(folder, channels, own, notes)
    return preprocessing_from(read_values(values), folder / PREPROCESSOR, channels, own, notes)


def read_values(values: Mapping[str, Any]) -> Preprocessor:
    """A processor's values in the keys that most of them have.

    A processor with a crop_pct resizes small images by it and crops them to the size.
    """
    known = {name: values[name] for name in Preprocessor.model_fields if values.get(name) is not None}
    known["do_normalize"] = bool(values.get("do_normalize", False))
    known["resample"] = int(known.get("resample", 2))
    size, share = known.get("size"), values.get("crop_pct")
    edge = size.get("shortest_edge") if isinstance(size, dict) else None
    if share and edge and edge < SMALL:
        known |= {"size": {"shortest_edge": int(edge / share)}, "crop_size": edge, "do_center_crop": True}
    return Preprocessor.model_validate(known)
