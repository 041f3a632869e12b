"""The precision plan: which numbers a compiled model may use where, as data and as a file people can edit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from edgevit.targets.precisions import FLOAT, quantized
from edgevit.targets.profiles import PrecisionName, Strict, read_toml

# The first calibration images: by their extremes a backend finds tensors in the vendor's table.
MATCHED_IMAGES = 8
LENIENTLY_MATCHED_IMAGES = 32

Options = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class PrecisionPlan:
    """What a backend is asked to realise.

    `precision` is a name in `targets.precisions`. `options` are the vendors' own settings by the backend's
    name, each checked by that backend's type. `sixteen_bit` names tensors kept at 16 bits, `ranges` gives
    (minimum, maximum) per tensor; both by the names of `edgevit.quantize.tensor_names`. `calibrated_ranges` are
    the extremes of the first calibration images, before any range was narrowed: a backend finds the tensors in
    the vendor's table by them. `lenient`: tensors with a range that the table has not are passed over; those that
    are to stay in 16 bits never are.
    """

    precision: str = FLOAT
    options: Options = field(default_factory=dict)
    sixteen_bit: tuple[str, ...] = ()
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    calibrated_ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    lenient: bool = False

    @property
    def matched_images(self) -> int:
        """How many of the first calibration images a backend finds tensors by.

        Tensors that the plan has no ranges for keep what these show: where there may be some, more are worth it.
        """
        return LENIENTLY_MATCHED_IMAGES if self.lenient else MATCHED_IMAGES

    @property
    def quantized(self) -> bool:
        """Whether any tensor is to be quantized."""
        return quantized(self.precision)

    def to_json(self) -> dict[str, Any]:
        """Plain values, the key of the compile stage among others."""
        return asdict(self)

    def to_toml(self) -> str:
        """The plan as a file that can be read, edited and given back."""
        lines = [
            f'precision = "{self.precision}"',
            "# Tensors kept in 16 bits; everything else is int8.",
            *(["lenient = true"] if self.lenient else []),
            "sixteen_bit = [" + "".join(f'\n    "{name}",' for name in self.sixteen_bit) + "\n]",
        ]
        for name, options in self.options.items():
            lines += ["", f"[options.{name}]", *(f"{key} = {toml(value)}" for key, value in options.items())]
        for title, values in (("ranges", self.ranges), ("calibrated_ranges", self.calibrated_ranges)):
            if values:
                lines += ["", f"[{title}]"]
                lines += [f'"{name}" = [{low!r}, {high!r}]' for name, (low, high) in values.items()]
        return "\n".join(lines) + "\n"


def toml(value: Any) -> str:
    """A setting as TOML writes it: JSON's strings, numbers, booleans and lists are TOML's too."""
    return json.dumps(value)


def ascending(values: tuple[float, float]) -> tuple[float, float]:
    """A range that a number can lie in. Raises ValueError."""
    if not values[0] < values[1]:
        raise ValueError("minimum is not below maximum")
    return values


Range = Annotated[tuple[float, float], AfterValidator(ascending)]


class PlanFile(Strict):
    """A plan as people write it."""

    id: str = ""
    precision: PrecisionName
    options: dict[str, dict[str, Any]] = Field(default_factory=dict)
    sixteen_bit: tuple[str, ...] = ()
    ranges: dict[str, Range] = Field(default_factory=dict)
    calibrated_ranges: dict[str, tuple[float, float]] = Field(default_factory=dict)
    lenient: bool = False


def read_plan(path: Path) -> PrecisionPlan:
    """A plan from a TOML file. Raises InputError naming the file, the key and the likely fix."""
    return PrecisionPlan(**read_toml(path, PlanFile).model_dump(exclude={"id"}))
