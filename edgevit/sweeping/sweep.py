"""A grid of conversions: cheap signals first, then what may be among the best, every step shared."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgevit.cluster.tasks import Ended, Here, Task, Workers, spread
from edgevit.conversion.artefacts import Conversion
from edgevit.conversion.inspection import costs, latency
from edgevit.conversion.whole_run import run_job
from edgevit.errors import InputError
from edgevit.files import write_atomically
from edgevit.progress import Progress
from edgevit.run.folder import open_run
from edgevit.run.reading import read_run
from edgevit.sweeping.answer import answer
from edgevit.sweeping.early import Outlook, over_budget, why_skip
from edgevit.sweeping.grid import Point, job_of, points
from edgevit.sweeping.rows import Row, row_of, with_best
from edgevit.sweeping.spec import Spec

STATE, FORMAT = "sweep.json", 1


@dataclass(frozen=True)
class Swept:
    """Every point of a grid, and the answer for each target."""

    rows: tuple[Row, ...]
    answers: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "format": FORMAT,
            "answers": list(self.answers),
            "points": [row.to_json() for row in self.rows],
        }


def sweep(
    spec: Spec, out: Path, progress: Progress, *, every: bool = False, workers: Workers | None = None
) -> Swept:
    """Convert a grid's points into `out`, less those that can't be among the best (`every`: all of them).

    Smaller versions of a model begin from what was found for the whole, except with `every`. `workers` make the
    points; this process if there are none. A point that fails is one row, and the others are
    made. Started again it goes on where it was: finished steps lie in the store. Writes sweep.json after each point
    and sweep.html at the end. Raises InputError where the spec makes no sense.
    """
    grid = whole_sizes(points(spec), spec, out, progress)
    for point in grid:
        job_of(point, spec, out)  # what is wrong with one is said before any work
    workers = workers or Here(progress)
    outlooks, rows = looked_at(grid, spec, out, every, workers, progress)
    skipped = {} if every else over_budget(list(outlooks.values()), spec.budget_ms)
    order = sorted(outlooks.values(), key=lambda each: (each.drop_low, each.ms or each.cycles or 0))
    waiting, begun, total = deque(order), time.monotonic(), len(order)
    done = 0

    def following() -> Task | None:
        while waiting:
            outlook = waiting.popleft()
            why = skipped.get(outlook.point) or (None if every else why_skip(outlook, rows))
            if why is None:
                number = total - len(waiting)
                left = time_left(begun, done, done + len(waiting) + 1)
                progress.stage(f"{number} of {total}: {outlook.point.name}{left}")
                return Task(outlook.point.name, made, (outlook.point, spec, out, every))
            rows.append(Row(outlook.point, "skipped", why))
        return None

    def told(answer: Ended) -> None:
        nonlocal done
        done += 1
        rows.append(answer.value if answer.error is None else failed(answer))
        save(out, finished(rows, grid, spec))

    spread(workers, following, told)
    swept = finished(rows, grid, spec)
    save(out, swept)
    write_report(out, swept)
    return swept


def whole_sizes(grid: Sequence[Point], spec: Spec, out: Path, progress: Progress) -> list[Point]:
    """The points, with a model's own size as no change of it."""
    own: dict[str, str] = {}
    for point in grid:
        if point.resolution is None or point.model in own:
            continue
        job = job_of(replace(point, resolution=None, heads=None, neurons=None), spec, out)
        with open_run(out / "outlook" / "size") as run:
            height, width = Conversion(job, run, progress).own_preprocessing.size
        own[point.model] = f"{height}" if height == width else f"{height}x{width}"
    return list(
        dict.fromkeys(
            replace(point, resolution=None) if point.resolution == own.get(point.model) else point
            for point in grid
        )
    )


def looked_at(
    grid: Sequence[Point], spec: Spec, out: Path, alone: bool, workers: Workers, progress: Progress
) -> tuple[dict[Point, Outlook], list[Row]]:
    """What is known of each point before it is compiled, and rows of those that fail already."""
    found: dict[Point, Outlook] = {}
    bad: list[Row] = []
    waiting = deque(grid)

    def following() -> Task | None:
        if not waiting:
            return None
        point = waiting.popleft()
        progress.stage(f"look at {len(grid) - len(waiting)} of {len(grid)}: {point.name}")
        return Task(point.name, outlook_of, (point, spec, out, alone))

    def told(answer: Ended) -> None:
        if answer.error is None:
            found[answer.value.point] = answer.value
        else:
            bad.append(failed(answer))

    spread(workers, following, told)
    if not found:
        raise InputError("nothing to sweep", bad[0].why, "Correct the spec")
    return found, bad


def failed(answer: Ended) -> Row:
    """The row of a point that was not made."""
    return Row(answer.task.arguments[0], "failed", str(answer.error))


def outlook_of(point: Point, spec: Spec, out: Path, alone: bool, progress: Progress) -> Outlook:
    """The least that a point loses and costs. Raises EdgevitError."""
    with open_run(out / "outlook" / point.folder) as run:
        return outlook_by(point, Conversion(job_of(point, spec, out, alone=alone), run, progress))


def outlook_by(point: Point, conversion: Conversion) -> Outlook:
    """The same, by a conversion of which only what is cheap is made."""
    _ = conversion.image_sets
    steps = len(conversion.reductions)
    lost = conversion.measure_reductions()[-1] if steps else None
    low = 0.0 if lost is None else lost.metrics["drop_low"] or 0.0
    (board,) = conversion.job.targets
    priced = costs(conversion, steps)
    told = priced[0]["latency"] if priced else latency({}, board, conversion.multiplications, point.precision)
    return Outlook(
        point,
        low,
        ms=None if told is None else told["latency_ms"],
        ms_low=None if told is None else told["low_ms"],
        cycles=priced[0]["cycles"] if priced else None,
    )


def made(point: Point, spec: Spec, out: Path, alone: bool, progress: Progress) -> Row:
    """One point converted, `alone` or beginning from what was found for the whole model. Raises EdgevitError."""
    job = job_of(point, spec, out, alone=alone)
    manifest, _ = run_job(job, progress)
    return row_of(point, read_run(job.out), manifest.results[0])


def finished(rows: Sequence[Row], grid: Sequence[Point], spec: Spec) -> Swept:
    """The rows in the grid's order, the best marked, with the answer for each target."""
    order = {point: number for number, point in enumerate(grid)}
    marked = with_best(sorted(rows, key=lambda row: order[row.point]))
    answers = [
        answer(marked, target, spec.budget_ms, spec.fps, spec.max_mb)
        for target in dict.fromkeys(point.target for point in grid)
    ]
    return Swept(tuple(marked), tuple(answers))


def time_left(begun: float, done: int, count: int) -> str:
    """How long the rest may take, once a point was made."""
    if not done:
        return ""
    minutes = (time.monotonic() - begun) / done * (count - done) / 60
    return f", about {minutes:.0f} min left" if minutes >= 1 else ", about a minute left"


def save(out: Path, swept: Swept) -> None:
    """Write sweep.json."""
    write_atomically(out / STATE, json.dumps(swept.to_json(), indent=1))


def write_report(out: Path, swept: Swept) -> None:
    """One page over all runs: the answers first, plots of loss against cost, each run's own part."""
    from edgevit.reporting.build import build
    from edgevit.reporting.writing import write

    runs = [read_run(Path(row.run)) for row in swept.rows if row.run is not None]
    if not runs:
        return
    report = build(runs)
    told = [f"{row.point.name}: {row.state}, {row.why}" for row in swept.rows if row.state != "done"]
    cautions = (*swept.answers, *told, *report.cautions)
    write(replace(report, title=f"sweep of {report.title}", cautions=cautions), {"html": out / "sweep.html"})
