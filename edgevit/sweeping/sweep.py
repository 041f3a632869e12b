"""A grid of conversions: cheap signals first, then what may be among the best, every step shared."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgevit.cluster.tasks import Ended, Here, Task, Workers, spread
from edgevit.conversion.whole_run import run_job
from edgevit.files import write_atomically
from edgevit.progress import Progress
from edgevit.run.reading import read_run
from edgevit.sweeping.answer import answer
from edgevit.sweeping.early import Outlook, fewer, over_budget, sharper, why_skip
from edgevit.sweeping.grid import Point, Version, job_of, points
from edgevit.sweeping.looking import image_count, looked_at, whole_sizes
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

    With many validation images, points are compared on few of them before many. `workers` make the
    points; this process if there are none. A point that fails is one row, and the others are
    made. Started again it goes on where it was: finished steps lie in the store. Writes sweep.json after each point
    and sweep.html at the end. Raises InputError where the spec makes no sense.
    """
    grid = whole_sizes(points(spec), spec, out, progress)
    for point in grid:
        job_of(point, spec, out)  # what is wrong with one is said before any work
    workers = workers or Here(progress)
    parts = [] if every else [on_few(spec, few) for few in fewer(image_count(grid, spec, out, progress))]
    outlooks, bad = looked_at(grid, [*parts, spec][0], out, workers, progress)
    left_out = {} if every else over_budget(outlooks, spec.budget_ms)
    settled = [Row(each.task.arguments[0][0], "failed", str(each.error)) for each in bad]
    settled += [Row(point, "skipped", why) for point, why in left_out.items()]
    outlooks = [each for each in outlooks if each.point not in left_out]
    seen: list[Row] = []

    def saved(rows: Sequence[Row]) -> None:
        save(out, finished([*settled, *rows], grid, spec))

    for part in parts:
        on = f" on {part.validation_images} images"
        rows = made_all(outlooks, part, out / on[1:].replace(" ", "-"), seen, workers, progress, saved, on)
        seen = [row for row in rows if row.state == "done"]
        known = {row.point: row for row in seen}
        settled += [row for row in rows if row.state != "done"]
        outlooks = [sharper(each, known[each.point]) for each in outlooks if each.point in known]
    rows = made_all(outlooks, spec, out, None if every else seen, workers, progress, saved)
    swept = finished([*settled, *rows], grid, spec)
    save(out, swept)
    write_report(out, swept)
    return swept


def on_few(spec: Spec, images: int) -> Spec:
    """The same grid on so many of the validation images."""
    return spec.model_copy(update={"validation_images": images})


def made_all(
    outlooks: Sequence[Outlook],
    spec: Spec,
    out: Path,
    seen: Sequence[Row] | None,
    workers: Workers,
    progress: Progress,
    saved: Callable[[Sequence[Row]], None],
    on: str = "",
) -> list[Row]:
    """A row of each point, the most promising made first; `saved` is told of all rows after each.

    Left out are points that one of those made, or `seen` on fewer images, beats for sure; nothing if that is None.
    `on` what they are made, for progress.
    """
    waiting = sorted(outlooks, key=lambda each: (each.drop_low, each.ms or each.cycles or 0))
    rows, running, begun, done = list[Row](), list[Version](), time.monotonic(), 0

    def following() -> Task | None:
        while waiting:
            # Points of one version share steps, for which one would wait while the other makes them.
            outlook = next((each for each in waiting if each.point.version not in running), waiting[0])
            waiting.remove(outlook)
            point = outlook.point
            why = None if seen is None else why_skip(outlook, [*seen, *rows])
            if why is not None:
                rows.append(Row(point, "skipped", why))
                continue
            left = time_left(begun, done, done + len(waiting) + 1)
            progress.stage(f"{len(outlooks) - len(waiting)} of {len(outlooks)}{on}: {point.name}{left}")
            running.append(point.version)
            return Task(point.name + on, made, (point, spec, out))
        return None

    def told(answer: Ended) -> None:
        nonlocal done
        done += 1
        point = answer.task.arguments[0]
        running.remove(point.version)
        rows.append(answer.value if answer.error is None else Row(point, "failed", str(answer.error)))
        saved(rows)

    spread(workers, following, told)
    return rows


def made(point: Point, spec: Spec, out: Path, progress: Progress) -> Row:
    """One point converted. Raises EdgevitError."""
    job = job_of(point, spec, out)
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
