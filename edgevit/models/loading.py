"""The one entry: which loader a model's name calls for."""

from __future__ import annotations

from pathlib import Path

from edgevit.errors import InputError
from edgevit.models import (
    google_npz,
    huggingface,
    onnx_file,
    python_file,
    timm_folder,
    timm_models,
    torchvision_vit,
)
from edgevit.models.checkpoint import SUFFIXES, Checkpoint, read_checkpoint
from edgevit.models.model import LoadedModel


def load_model(
    name: str,
    weights: Path | None = None,
    *,
    num_classes: int | None = None,
    size: tuple[int, int] | None = None,
) -> LoadedModel:
    """Load a classifier by a timm name, `torchvision:vit_b_16`, a Hugging Face directory, `file.py:function` or an
    .onnx file.

    `weights` is a safetensors or torch file; without one, pretrained weights are downloaded as timm and
    torchvision do. `num_classes` and `size` (height, width) in pixels are what the user expects; None takes
    what the model has. Raises InputError for anything that can't be loaded, ParityError where mapping to the
    canonical ViT changed the logits.
    """
    if not name.strip():
        raise InputError(
            "cannot load a model", "its name is empty", "Give a timm name, file.py:function or directory"
        )
    what = f"cannot load {name}"
    if num_classes is not None and num_classes < 1:
        raise InputError(what, f"{num_classes} classes make no classifier", "Ask for one class or more")
    if python_file.is_reference(name):
        return python_file.load(name, weights, num_classes=num_classes, size=size)
    if onnx_file.is_reference(name):
        if weights is not None:
            raise InputError(what, "an ONNX file brings its own weights", "Leave --weights out")
        return onnx_file.load(name, num_classes=num_classes, size=size)
    folder = Path(name)
    if folder.is_dir() and ((folder / "config.json").is_file() or not timm_models.is_known(name)):
        if weights is not None:
            raise InputError(
                what,
                "a directory brings its own weights",
                "Leave --weights out, or name a timm model",
            )
        if timm_folder.builder_of(folder) is not None:
            return timm_folder.load(folder, num_classes=num_classes, size=size)
        return huggingface.load(folder, num_classes=num_classes, size=size)
    refuse_paths(name)
    if weights is None and name in torchvision_vit.SHAPES:
        raise InputError(
            what,
            "timm has no model of this name, torchvision has",
            f"Name it {torchvision_vit.PREFIX}{name}, with --weights for weights of your own",
        )
    checkpoint = weights_for(name, weights) if weights is not None else None
    if torchvision_vit.is_reference(name) or (
        checkpoint is not None
        and torchvision_vit.is_layout(checkpoint.weights)
        and not name.startswith(timm_models.HUB)
    ):
        if not torchvision_vit.is_variant(name):
            timm_models.refuse_unknown(name)
        return torchvision_vit.load(name, checkpoint, num_classes=num_classes, size=size)
    return timm_models.load(name, checkpoint, num_classes=num_classes, size=size)


def weights_for(name: str, weights: Path) -> Checkpoint:
    """The weights in a file, for a model of timm's or torchvision's."""
    if google_npz.is_file(weights) and timm_models.is_known(name):
        return google_npz.read(name, weights)
    return read_checkpoint(weights)


def refuse_paths(name: str) -> None:
    """A path in place of a model's name gets the explanation a path deserves."""
    what = f"cannot load {name}"
    if Path(name).is_file() and Path(name).suffix in SUFFIXES:
        raise InputError(
            what, "it is a weights file, not a model", f"Name the model and pass --weights {name}"
        )
    if "/" in name and not name.startswith((*timm_models.HUB, torchvision_vit.PREFIX)):
        raise InputError(
            what, "no such directory", "Check the path, or give a timm name, file.py:function or directory"
        )
