"""What a report says, as data: every renderer draws this and adds nothing of its own."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from edgevit.reporting.sections import (
    Bench,
    Changes,
    Classes,
    Delegate,
    Gain,
    Heat,
    Latency,
    Loss,
    Pictures,
    Placement,
    Precision,
    Verdict,
)

FORMAT = 2


@dataclass(frozen=True)
class Stage:
    """A step of the accuracy waterfall: top-1 after it, and its distance to the float model with an interval."""

    name: str
    kind: Literal["float", "reduction", "artefact"]
    top1: float
    before: float
    drop: float | None
    low: float | None
    high: float | None
    n: int
    how: str
    note: str = ""


@dataclass(frozen=True)
class Artefact:
    """One file that a run made, with everything known about it; sections without data are None or empty."""

    anchor: str
    target: str
    board: str
    precision: str
    file: str
    bytes: int
    sha256: str
    how: str
    verdict: Verdict
    loss: Loss | None
    board_losses: tuple[Loss, ...]
    gate: str | None
    gains: tuple[Gain, ...]
    classes: Classes | None
    changes: Changes | None
    pictures: Pictures | None
    heat: Heat | None
    placement: Placement | None
    delegate: Delegate | None
    latency: Latency | None
    benches: tuple[Bench, ...]
    massive: str | None
    precision_plan: Precision | None
    rewrites: tuple[tuple[str, str], ...]
    parity: float | None
    tools: tuple[tuple[str, str], ...]
    seconds: float
    peak_memory_mb: int
    warnings: tuple[str, ...]
    size: str = ""

    @property
    def title(self) -> str:
        """What it is called in headings."""
        return f"{self.target} {self.precision}"


@dataclass(frozen=True)
class Run:
    """One run directory: its model, its images, its artefacts, how it came about."""

    anchor: str
    name: str
    folder: str
    model: str
    source: str
    parameters: int | None
    classes: int | None
    metric: str
    divergence: str
    size: str
    prepared_by: str
    images: str
    images_key: str | None
    written: str
    notes: tuple[str, ...]
    waterfall: tuple[Stage, ...]
    artefacts: tuple[Artefact, ...]
    mapping_parity: float | None
    command: str
    command_from: str
    recipe: str
    versions: tuple[tuple[str, str], ...]
    host: str
    stages: tuple[tuple[str, float, int, str], ...]
    inputs: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]
    omissions: tuple[str, ...]


@dataclass(frozen=True)
class Point:
    """An artefact in a Pareto plot: points of accuracy lost against a cost; `best` if none is better in both."""

    label: str
    cost: float
    drop: float
    low: float | None
    high: float | None
    best: bool


@dataclass(frozen=True)
class Pareto:
    """A plot of comparable costs: one unit, obtained in one way."""

    title: str
    unit: str
    how: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Report:
    """Everything: runs side by side, what may be compared across them."""

    title: str
    edgevit: str
    runs: tuple[Run, ...]
    paretos: tuple[Pareto, ...]
    cautions: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values; thumbnails and raw samples are left out."""
        return {"format": FORMAT, **without(asdict(self), {"thumbnail", "samples"})}


def without(value: Any, names: set[str]) -> Any:
    """A JSON value with these keys removed everywhere."""
    if isinstance(value, dict):
        return {key: without(item, names) for key, item in value.items() if key not in names}
    if isinstance(value, list | tuple):
        return [without(item, names) for item in value]
    return value
