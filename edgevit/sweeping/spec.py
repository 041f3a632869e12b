"""What a sweep is asked for: from the command line, or from a TOML file with the same names."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, ValidationError, field_validator

from edgevit.errors import InputError
from edgevit.files import read_input
from edgevit.targets.precisions import DEFAULT, PRECISIONS
from edgevit.targets.profiles import Strict, explain, parse_toml

MOST = 1000  # points of a grid
# Paths; the last may be a name of torchvision's weights.
FILES = ("weights", "calibration", "validation", "preprocessing")
OWN = "own"  # a resolution: the model's own
Amount = str | int | float
Positive = Annotated[float, Field(gt=0, lt=1e9)]


class Spec(Strict):
    """A grid: every combination of models, resolutions, amounts to prune, targets and precisions; and what it
    is for.

    `max_ms` and `fps` limit an image's time, `max_mb` the file. Paths of a file are relative to it.
    """

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        populate_by_name=True,
        alias_generator=lambda name: name.replace("_", "-"),
    )

    models: list[str] = Field(min_length=1)
    weights: str | None = None
    preprocessing: str | None = None
    resolution: list[Amount] = Field(default=[OWN], min_length=1)
    prune_heads: list[Amount] = Field(default=[0], min_length=1)
    prune_mlp: list[Amount] = Field(default=[0], min_length=1)
    targets: list[str] = Field(min_length=1)
    precisions: list[str] = Field(default=[DEFAULT], min_length=1)
    calibration: str | None = None
    validation: str
    calibration_images: int | None = Field(None, ge=1)
    validation_images: int | None = Field(None, ge=1)
    max_drop: float | None = Field(None, ge=0)
    search_minutes: float | None = Field(None, ge=0)
    max_ms: Positive | None = None
    fps: Positive | None = None
    max_mb: Positive | None = None
    seed: int = Field(0, ge=0)

    @field_validator("precisions")
    @classmethod
    def known(cls, names: list[str]) -> list[str]:
        """Precisions that there are. Raises ValueError."""
        for name in names:
            if name not in PRECISIONS:
                raise ValueError(f"there is no precision {name}; there are {', '.join(PRECISIONS)}")
        return names

    @property
    def budget_ms(self) -> float | None:
        """The tighter of the two limits to an image's time."""
        limits = [self.max_ms, 1000 / self.fps if self.fps is not None else None]
        return min((each for each in limits if each is not None), default=None)

    @property
    def size(self) -> int:
        """Points of the grid."""
        axes: tuple[Sequence[object], ...] = (
            self.models, self.resolution, self.prune_heads, self.prune_mlp, self.targets, self.precisions,
        )  # fmt: skip
        return math.prod(len(dict.fromkeys(map(str, axis))) for axis in axes)


def parse(values: dict[str, Any], what: str) -> Spec:
    """The spec of plain values. Raises InputError, beginning with `what`."""
    try:
        spec = Spec.model_validate({key: value for key, value in values.items() if value is not None})
    except ValidationError as error:
        why, fix = explain(error, Spec)
        raise InputError(what, why, fix) from None
    if spec.size > MOST:
        raise InputError(what, f"its grid has {spec.size} points", f"Sweep {MOST} or fewer at a time")
    return spec


def read_spec(path: Path) -> Spec:
    """The spec of a TOML file. Raises InputError."""
    what = f"cannot read the sweep {path}"
    values = parse_toml(read_input(path, what), what)
    for name in FILES:
        if isinstance(values.get(name), str):
            near = path.parent / values[name]
            values[name] = str(near) if near.exists() or name != "preprocessing" else values[name]
    if isinstance(values.get("models"), list):
        beside = [path.parent / str(each).partition(":")[0] for each in values["models"]]
        values["models"] = [
            str(path.parent / str(each)) if near.exists() else each
            for each, near in zip(values["models"], beside, strict=True)
        ]
    return parse(values, what)
