"""A loaded model with the preprocessing that the user says it was trained with."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgevit.errors import InputError
from edgevit.files import read_input
from edgevit.images.preprocessing import Preprocessing
from edgevit.images.preprocessing_request import PreprocessingRequest, parse_preprocessing
from edgevit.models.huggingface_config import Preprocessor, read
from edgevit.models.huggingface_preprocessing import preprocessing_from
from edgevit.models.model import ASSUMED, LoadedModel
from edgevit.targets.profiles import parse_toml

OF_PROCESSORS = ("image_processor_type", "feature_extractor_type", "image_mean", "do_normalize", "do_resize")
TORCHVISION = "_Weights"
Number = int | float
Numbers = Number | list[Number]


class Described(BaseModel):
    """A file's values: those of the command line's options by their names, without the dashes."""

    model_config = ConfigDict(extra="forbid", strict=True)

    mean: Numbers | None = None
    std: Numbers | None = None
    input_size: Annotated[int | str | list[int] | None, Field(alias="input-size")] = None
    crop: Number | str | None = None
    interpolation: str | None = None
    channels: str | None = None


def with_preprocessing(loaded: LoadedModel, given: PreprocessingRequest) -> LoadedModel:
    """The model with what the user says in place of its own preprocessing and class names.

    Raises InputError where that doesn't fit the model: another number of channels or classes, another size.
    """
    described = loaded.preprocessing
    if given.described_in is not None:
        described = read_description(given.described_in, loaded)
    said = merged(described, given, loaded)
    if given.classes is not None and len(given.classes) != loaded.num_classes:
        raise InputError(
            "cannot name the classes",
            f"--classes has {len(given.classes)} names and {loaded.name} gives {loaded.num_classes} logits",
            "Give one name for each, in the order of the outputs",
        )
    origin = " ".join(given.options) or loaded.preprocessing_from
    assumed = tuple(note for note in loaded.notes if not given.options or ASSUMED not in note)
    labels = given.classes or loaded.labels
    return replace(loaded, preprocessing=said, preprocessing_from=origin, labels=labels, notes=assumed)


def merged(described: Preprocessing, given: PreprocessingRequest, loaded: LoadedModel) -> Preprocessing:
    """A described preprocessing with the single values of the request in it."""
    own = loaded.preprocessing
    size = given.size or described.size
    if size != own.size:
        raise InputError(
            f"cannot give {loaded.name} {size[0]}x{size[1]} images",
            f"it takes {own.size[0]}x{own.size[1]}",
            "Correct the size; to make the model take another one, use --resolution",
        )
    channels = given.channels or described.channels
    if (channels == "L") != (own.channels == "L"):
        raise InputError(
            f"cannot give {loaded.name} {channels} images",
            f"it takes {len(own.mean)} channel{'s' * (len(own.mean) > 1)}",
            "Leave --channels out",
        )
    crop = given.crop_mode is not None or given.crop_pct is not None
    return replace(
        described,
        mean=each_channel("--mean", given.mean or described.mean, own),
        std=each_channel("--std", given.std or described.std, own),
        crop_mode=given.crop_mode or described.crop_mode,
        crop_pct=(given.crop_pct or 1.0) if crop else described.crop_pct,
        resize_to=None if crop else described.resize_to,
        interpolation=given.interpolation or described.interpolation,
        channels=channels,
    )


def each_channel(option: str, numbers: tuple[float, ...], own: Preprocessing) -> tuple[float, ...]:
    """One number for each channel of the model. Raises InputError."""
    count = len(own.mean)
    if len(numbers) not in (1, count):
        raise InputError(
            f"{option} can't be used",
            f"it has {len(numbers)} numbers for {count} channels",
            "Give one for each",
        )
    return numbers * count if len(numbers) == 1 else numbers


def read_description(described_in: str, loaded: LoadedModel) -> Preprocessing:
    """The preprocessing in a TOML or JSON file, a preprocessor_config.json, or of torchvision's weights by name."""
    if TORCHVISION in described_in and not Path(described_in).exists():
        return of_torchvision(described_in)
    path = Path(described_in)
    what = f"cannot read the preprocessing in {path}"
    content = read_input(path, what)
    values = parse_toml(content, what) if path.suffix.lower() == ".toml" else parse_json(content, what)
    if any(key in values for key in OF_PROCESSORS):
        own, processor = loaded.preprocessing, read(path.parent, path.name, Preprocessor)
        return preprocessing_from(processor, path, len(own.mean), own.size, [])
    try:
        found = Described.model_validate(values)
    except ValidationError as error:
        known = ", ".join(field.alias or name for name, field in Described.model_fields.items())
        raise InputError(what, first_problem(error), f"Its keys are {known}") from None
    return merged(loaded.preprocessing, parse_preprocessing(found.model_dump(exclude_none=True)), loaded)


def parse_json(content: bytes, what: str) -> dict[str, Any]:
    """The object of a JSON file. Raises InputError."""
    try:
        values = json.loads(content)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise InputError(
            what, "it is not a JSON object", "Give a .toml, a JSON object, or a preprocessor_config.json"
        )
    return values


def of_torchvision(name: str) -> Preprocessing:
    """What torchvision does for weights of this name, such as ViT_B_16_Weights.IMAGENET1K_V1."""
    import torchvision

    from edgevit.models.torchvision_vit import from_transforms

    try:
        return from_transforms(torchvision.models.get_weight(name).transforms())
    except (ValueError, KeyError, AttributeError, TypeError):
        raise InputError(
            f"cannot read the preprocessing of {name}",
            "torchvision has no image classifier's weights of this name",
            "Write it as torchvision does: ViT_B_16_Weights.IMAGENET1K_V1",
        ) from None


def first_problem(error: ValidationError) -> str:
    """Key and reason of the first thing wrong in a file."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"][:2]) or "its content"
    return f"{key}: {first['msg'][0].lower()}{first['msg'][1:]}"
