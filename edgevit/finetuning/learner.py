"""A model about to learn new classes, and what builds it again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from edgevit.errors import InputError
from edgevit.finetuning.job import FinetuneJob
from edgevit.images.preprocessing import Preprocessing
from edgevit.models import load_model
from edgevit.models.classifier import classifier_of, with_classes
from edgevit.models.given_preprocessing import with_preprocessing
from edgevit.models.huggingface_config import CONFIG
from edgevit.models.timm_folder import builder_of
from edgevit.models.timm_models import is_known

TORCHVISION = {
    "vit_b_16": "vit_base_patch16_224",
    "vit_b_32": "vit_base_patch32_224",
    "vit_l_16": "vit_large_patch16_224",
    "vit_l_32": "vit_large_patch32_224",
}


@dataclass(frozen=True)
class Learner:
    """A module whose `classifier`, the path of a linear layer, is zero until it learns.

    `built_from` builds the module again without its weights: a timm name or file.py:function. None: `save` writes a
    folder that its own library reads.
    """

    name: str
    module: nn.Module
    classifier: str
    preprocessing: Preprocessing
    built_from: str | None
    save: Callable[[Path], None] | None = None


def learner_of(job: FinetuneJob, names: tuple[str, ...]) -> Learner:
    """The model of a job with a new classifier of the classes. Raises InputError."""
    folder = Path(job.model)
    if folder.is_dir() and (folder / CONFIG).is_file() and builder_of(folder) is None:
        return of_transformers(job, folder, names)
    loaded = with_preprocessing(
        load_model(job.model, job.weights, size=job.preprocessing.size), job.preprocessing
    )
    built_from = rebuilt_by(job.model, canonical=loaded.canonical)
    path = classifier_of(loaded.name, loaded.module, loaded.preprocessing)
    module = with_classes(loaded.module, path, len(names))
    return Learner(loaded.name, module, path, loaded.preprocessing, built_from)


def of_transformers(job: FinetuneJob, folder: Path, names: tuple[str, ...]) -> Learner:
    """A model of a Hugging Face directory, with or without a classifier of its own."""
    from edgevit.models import huggingface_any

    if job.weights is not None:
        raise InputError(
            f"cannot fine-tune {folder}", "a directory brings its own weights", "Leave --weights out"
        )
    found, model = huggingface_any.for_classes(folder, names, size=job.preprocessing.size)
    loaded = with_preprocessing(found, job.preprocessing)
    path = classifier_of(loaded.name, loaded.module, loaded.preprocessing)
    layer = loaded.module.get_submodule(path)
    assert isinstance(layer, nn.Linear)
    with torch.no_grad():
        layer.weight.zero_()
        if layer.bias is not None:
            layer.bias.zero_()
    return Learner(loaded.name, loaded.module, path, loaded.preprocessing, None, model.save_pretrained)


def rebuilt_by(name: str, *, canonical: bool) -> str:
    """What builds a module again without its weights: a timm name or file.py:function. Raises InputError."""
    if ".py:" in name:
        return name
    built_by = builder_of(Path(name))
    if built_by is not None:
        return built_by
    plain_name = name.removeprefix("torchvision:")
    if name.startswith("torchvision:") and plain_name in TORCHVISION and canonical:
        return TORCHVISION[plain_name]
    if is_known(name) and not Path(name).is_dir():
        return name.partition(".")[0]
    raise InputError(
        f"cannot fine-tune {name}",
        "its structure can't be built again without it",
        "Start from a timm name (with --weights), torchvision:vit_b_16, a Hugging Face folder or file.py:function",
    )
