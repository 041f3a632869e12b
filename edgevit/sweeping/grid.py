"""The points of a sweep's grid, in the order in which they share most work."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from edgevit.request.compression import parse_amount
from edgevit.request.job import Job, file_of, make_job
from edgevit.sweeping.spec import OWN, Spec

Version = tuple[str, str | None, str | None, str | None]


@dataclass(frozen=True)
class Point:
    """One conversion of a grid: a model, made smaller in one way, for one target in one precision."""

    model: str
    resolution: str | None
    heads: str | None
    neurons: str | None
    target: str
    precision: str

    @property
    def version(self) -> Version:
        """The float model: the same for every target and precision."""
        return self.model, self.resolution, self.heads, self.neurons

    @property
    def variant(self) -> str:
        """What it is called apart from its target: the same float model for all of them."""
        stem = file_of(self.model).name
        parts = [stem.removesuffix(".py").removesuffix(".onnx")]
        parts += [f"{self.resolution} px"] * (self.resolution is not None)
        parts += [f"{self.heads} heads less"] * (self.heads is not None)
        parts += [f"{self.neurons} neurons less"] * (self.neurons is not None)
        return ", ".join(parts)

    @property
    def name(self) -> str:
        """What it is called."""
        return f"{self.variant}, {self.target} {self.precision}"

    @property
    def folder(self) -> str:
        """A folder's name: no two points of a grid have one."""
        return re.sub(r"[^A-Za-z0-9.]+", "-", self.name).strip("-.")[:150]


def points(spec: Spec) -> list[Point]:
    """Every point once; those of one float model together, the whole model first."""
    found = [
        Point(model, size_of(size), amount_of(heads), amount_of(neurons), target, precision)
        for model, size, heads, neurons, target, precision in product(
            spec.models, spec.resolution, spec.prune_heads, spec.prune_mlp, spec.targets, spec.precisions
        )
    ]
    return list(dict.fromkeys(found))


def size_of(value: object) -> str | None:
    """A resolution as the command line has it; None for the model's own."""
    return None if str(value) == OWN else str(value)


def amount_of(value: object) -> str | None:
    """An amount as the command line has it; None for nothing."""
    return None if str(value) in ("0", "0.0") else str(value)


def job_of(point: Point, spec: Spec, folder: Path) -> Job:
    """The conversion that a point is. Raises InputError."""
    job = make_job(
        point.model,
        (point.target,),
        (point.precision,),
        None,
        folder / "points" / point.folder,
        search_minutes=spec.search_minutes,
        weights=path(spec.weights),
        preprocessing=spec.preprocessing,
        calibration=path(spec.calibration),
        validation=path(spec.validation),
        calibration_images=spec.calibration_images,
        validation_images=spec.validation_images,
        max_drop=spec.max_drop,
        seed=spec.seed,
        resolution=point.resolution,
        prune_heads=point.heads,
        prune_mlp=point.neurons,
    )
    amounts = (parse_amount("--prune-heads", amount_of(each), "6 or 0.15") for each in spec.prune_heads)
    ahead = tuple(each for each in amounts if isinstance(each, int | float))
    return replace(job, heads_ahead=ahead)


def path(text: str | None) -> Path | None:
    """A path, if there is one."""
    return None if text is None else Path(text)
