"""The two configuration files of a Hugging Face directory, checked key by key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from edgevit.errors import InputError

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
Count = Annotated[int, Field(gt=0, le=2**20)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


def two_sides(value: Any) -> Any:
    """A number as height and width; anything else as it is."""
    return (value, value) if isinstance(value, int) and not isinstance(value, bool) else as_tuple(value)


def as_tuple(value: Any) -> Any:
    """JSON's lists as tuples, which strict mode asks for."""
    return tuple(value) if isinstance(value, list) else value


def several(value: Any) -> Any:
    """One number as a list of one."""
    return as_tuple(value) if isinstance(value, list | tuple) else (value,)


Sides = Annotated[tuple[Count, Count], BeforeValidator(two_sides)]


class Written(BaseModel):
    """Values of the stated type, not converted; keys nobody here reads are none of our business."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class Named(Written):
    """What every config.json may say of its model."""

    architectures: Annotated[tuple[str, ...], BeforeValidator(as_tuple)] | None = None
    architecture: str | None = Field(None, description="the model's name, in timm's own directories")
    model_type: str = "none"
    id2label: dict[str, Any] | None = None


class Config(Named):
    """A ViT's config.json; the defaults are those of transformers' ViTConfig."""

    hidden_size: Count = 768
    num_hidden_layers: Annotated[int, Field(gt=0, le=1000)] = 12
    num_attention_heads: Count = 12
    intermediate_size: Count = 3072
    hidden_act: str = "gelu"
    layer_norm_eps: Positive = 1e-12
    image_size: Sides = (224, 224)
    patch_size: Sides = (16, 16)
    num_channels: Count = 3
    qkv_bias: bool = True


class Size(Written):
    """Sides in pixels as image processors write them: both, or the shorter one."""

    height: Count | None = None
    width: Count | None = None
    shortest_edge: Count | None = None


def size_of(value: Any) -> Any:
    """A number or a pair as a Size's keys."""
    if isinstance(value, dict | Size):
        return value
    sides = two_sides(value)
    if isinstance(sides, tuple) and len(sides) == 2:
        return {"height": sides[0], "width": sides[1]}
    raise PydanticCustomError("size", "Input should be a number, a pair, or height and width")


AnySize = Annotated[Size, BeforeValidator(size_of)]


class Preprocessor(Written):
    """preprocessor_config.json; the defaults are those of transformers' ViTImageProcessor."""

    do_resize: bool = True
    size: AnySize | None = None
    resample: int = 2
    do_center_crop: bool | None = Field(None, description="None: where there is a crop_size")
    crop_size: AnySize | None = None
    do_rescale: bool = True
    rescale_factor: Positive = 1 / 255
    do_normalize: bool = True
    image_mean: Annotated[tuple[Finite, ...], BeforeValidator(several), Field(min_length=1)] = (0.5,)
    image_std: Annotated[tuple[Positive, ...], BeforeValidator(several), Field(min_length=1)] = (0.5,)


Model = TypeVar("Model", bound=Written)


def read(folder: Path, name: str, model: type[Model]) -> Model:
    """A configuration file. Raises InputError in one line naming the file and its first wrong key."""
    try:
        return model.model_validate(read_json(folder, name))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(step) for step in first["loc"])
        raise invalid(folder / name, f"{key} is {shown(first['input'])}: {first['msg']}") from error


def shown(value: Any) -> str:
    """A value as JSON writes it, cut short."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 40 else text[:37] + "..."


def invalid(path: Path, why: str) -> InputError:
    """The error for a configuration file's value."""
    return InputError(f"cannot use {path}", why, "Correct the file, or copy or download it again")


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """A JSON object of the directory. Raises InputError where it is absent or not one."""
    path = folder / name
    if not path.is_file():
        raise InputError(
            f"cannot load {folder}",
            f"it has no {name}",
            "Give a directory written by save_pretrained(), or a timm name",
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"cannot read {path}", f"not JSON ({error})", "Copy or download it again") from error
    if not isinstance(values, dict):
        raise InputError(f"cannot read {path}", "not a JSON object", "Copy or download it again")
    return values


def check_shape(path: Path, config: Config) -> None:
    """Raises InputError for numbers that fit no ViT."""
    if config.hidden_size % config.num_attention_heads:
        raise invalid(
            path,
            f"{config.num_attention_heads} num_attention_heads don't divide hidden_size {config.hidden_size}",
        )
    if any(patch > side for patch, side in zip(config.patch_size, config.image_size, strict=True)):
        raise invalid(
            path, f"patch_size {list(config.patch_size)} is larger than image_size {list(config.image_size)}"
        )
