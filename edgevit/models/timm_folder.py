"""A folder in timm's own layout: config.json and model.safetensors, as timm and `edgevit finetune` write it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgevit.errors import InputError
from edgevit.images.preprocessing import Preprocessing
from edgevit.models import python_file, timm_models
from edgevit.models.checkpoint import one_line, read_checkpoint
from edgevit.models.huggingface_config import CONFIG, read_json
from edgevit.models.model import LoadedModel

WEIGHTS = "model.safetensors"
BUILT_BY = "function"  # file.py:function that builds a module which is none of timm's


class Own(BaseModel):
    """What edgevit adds: the whole preprocessing, and how a module of the user's is built."""

    model_config = ConfigDict(extra="ignore")

    preprocessing: dict[str, Any] | None = None
    function: str | None = None
    classifier: str | None = None


class TimmConfig(BaseModel):
    """config.json of a folder of timm's."""

    model_config = ConfigDict(extra="ignore")

    architecture: str | None = None
    num_classes: int | None = Field(None, gt=0)
    label_names: tuple[str, ...] | None = None
    pretrained_cfg: dict[str, Any] = Field(default_factory=dict)
    edgevit: Own = Own()


def builder_of(folder: Path) -> str | None:
    """What builds the module of a folder without its weights, by name or function; None: another layout."""
    if not folder.is_dir() or not (folder / CONFIG).is_file():
        return None
    values = read_json(folder, CONFIG)
    own = values.get("edgevit")
    if isinstance(own, dict) and isinstance(own.get(BUILT_BY), str):
        return str(own[BUILT_BY])
    found = values.get("architecture")
    return found if isinstance(found, str) and "architectures" not in values else None


def load(folder: Path, *, num_classes: int | None = None, size: tuple[int, int] | None = None) -> LoadedModel:
    """The model in a folder, with its own preprocessing and class names. Raises InputError."""
    what = f"cannot load {folder}"
    try:
        config = TimmConfig.model_validate(read_json(folder, CONFIG))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(step) for step in first["loc"])
        raise InputError(
            what, f"{CONFIG}, {key}: {first['msg']}", "Correct the file, or copy it again"
        ) from None
    weights = folder / WEIGHTS
    own = config.edgevit
    if own.function is not None:
        if own.classifier is None or config.num_classes is None:
            raise InputError(what, f"its {CONFIG} names no classifier", "Fine-tune it again")
        classifier = own.classifier, config.num_classes
        loaded = python_file.load(
            own.function, weights, num_classes=num_classes, size=size, classifier=classifier
        )
    else:
        assert config.architecture is not None  # builder_of() said so
        loaded = timm_models.load(
            config.architecture, read_checkpoint(weights), num_classes=num_classes, size=size
        )
    labels = config.label_names if len(config.label_names or ()) == loaded.num_classes else loaded.labels
    preprocessing = described(config, loaded.preprocessing, what)
    return replace(
        loaded,
        name=str(folder),
        source=f"{loaded.source} in {folder.name}",
        labels=labels,
        preprocessing=replace(preprocessing, size=size or preprocessing.size),
        preprocessing_from=f"{folder.name}/{CONFIG}",
    )


def described(config: TimmConfig, default: Preprocessing, what: str) -> Preprocessing:
    """The preprocessing that a folder's configuration describes. Raises InputError."""
    try:
        if config.edgevit.preprocessing is not None:
            found = Preprocessing.from_json(config.edgevit.preprocessing)
        else:
            known = config.pretrained_cfg
            found = replace(
                default,
                mean=tuple(map(float, known.get("mean", default.mean))),
                std=tuple(map(float, known.get("std", default.std))),
                interpolation=str(known.get("interpolation", default.interpolation)),
                crop_pct=float(known.get("crop_pct", default.crop_pct)),
                crop_mode=str(known.get("crop_mode", default.crop_mode)),
            )
    except (TypeError, ValueError, KeyError) as error:
        raise InputError(
            what, f"the preprocessing in its {CONFIG} is not valid ({one_line(error)})", "Copy it again"
        ) from None
    if len(found.mean) != len(default.mean) or found.size != default.size:
        raise InputError(what, f"the preprocessing in its {CONFIG} is of another model", "Copy it again")
    return found
