"""What a sweep knows of each point: what it lost, what it costs, whether it was made at all."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from edgevit.outputs.kinds import unit_of
from edgevit.reporting.pareto import beaten
from edgevit.run.reading import RunFiles
from edgevit.run.results import Result
from edgevit.sweeping.grid import Point

State = Literal["done", "skipped", "failed"]
ESTIMATE = "edgevit estimate"


@dataclass(frozen=True)
class Row:
    """A point of a sweep. `drop` with its 95 % interval is in `unit`; `ms` an image with its interval, from
    `ms_from`: a measurement on a board, or the estimate. `right` is the share of right answers, 0..1. `why`
    says why a point was skipped or failed."""

    point: Point
    state: State = "done"
    why: str = ""
    run: str | None = None
    right: float | None = None
    drop: float | None = None
    low: float | None = None
    high: float | None = None
    unit: str = ""
    n: int = 0
    ms: float | None = None
    ms_low: float | None = None
    ms_high: float | None = None
    ms_from: str = ""
    cycles: int | None = None
    megabytes: float | None = None
    best: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "name": self.point.name}


def row_of(point: Point, run: RunFiles, result: Result) -> Row:
    """What a finished run says of a point."""
    accuracy, placement = result.accuracy, result.details.placement
    row = Row(
        point,
        run=str(run.folder),
        cycles=None if placement is None else placement.cycles,
        megabytes=result.bytes / 1e6,
    )
    if accuracy is not None:
        row = replace(
            row,
            right=accuracy.top1,
            drop=accuracy.drop_points,
            low=accuracy.drop_low,
            high=accuracy.drop_high,
            unit=unit_of(accuracy),
            n=accuracy.n,
        )
    measured = [
        (timing, each.how)
        for each in run.benches
        if each.artefact == result.artefact and each.how.startswith("measured on")
        for timing in each.latency.threads.values()
        if timing.p50 is not None
    ]
    if measured:
        timing, how = min(measured, key=lambda pair: pair[0].p50 or 0.0)
        return replace(row, ms=timing.p50, ms_low=timing.p50, ms_high=timing.p90 or timing.p50, ms_from=how)
    found = result.latency
    if found is not None:
        row = replace(
            row, ms=found.latency_ms, ms_low=found.low_ms, ms_high=found.high_ms, ms_from=found.label
        )
    return row


def with_best(rows: list[Row]) -> list[Row]:
    """The rows with those marked that no other of their target beats in loss and in cost."""
    made = [row for row in rows if row.state == "done" and row.drop is not None]
    places = {id(row): (cost(row), row.drop or 0.0) for row in made}
    best = {
        id(row)
        for row in made
        if not beaten(
            places[id(row)], [places[id(each)] for each in made if each.point.target == row.point.target]
        )
    }
    return [replace(row, best=id(row) in best) for row in rows]


def cost(row: Row) -> float:
    """What a point costs: milliseconds, else cycles, else megabytes; the same of all points of a target."""
    return row.ms or row.cycles or row.megabytes or 0.0
