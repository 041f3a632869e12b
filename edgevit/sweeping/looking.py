"""What is known of a sweep's points before they are compiled: cheap signals, every version of a model once."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from edgevit.cluster.tasks import Ended, Task, Workers, spread
from edgevit.conversion.artefacts import Conversion
from edgevit.conversion.inspection import costs, latency
from edgevit.errors import EdgevitError, InputError
from edgevit.progress import Progress
from edgevit.run.folder import open_run
from edgevit.sweeping.early import Outlook
from edgevit.sweeping.grid import Point, Version, job_of
from edgevit.sweeping.spec import Spec


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


def image_count(grid: Sequence[Point], spec: Spec, out: Path, progress: Progress) -> int:
    """How many validation images there are for the points; 0 where none can be told."""
    for point in grid:
        with suppress(EdgevitError), open_run(out / "outlook" / "size") as run:
            found = Conversion(job_of(point, spec, out), run, progress).image_sets["validation"]
            return 0 if found is None else len(found.paths)
    return 0


def looked_at(
    grid: Sequence[Point], spec: Spec, out: Path, workers: Workers, progress: Progress
) -> tuple[list[Outlook], list[Ended]]:
    """What is known of each point before it is compiled, and how those ended that fail already.

    A task is a version of a model, for all targets and precisions: workers don't wait for each other's steps. Where
    that fails, its points are tried one by one. Raises InputError where all of them fail.
    """
    versions: dict[Version, list[Point]] = {}
    for point in grid:
        versions.setdefault(point.version, []).append(point)
    waiting = deque(versions[each] for each in in_turn(list(versions)))
    found, bad, begun = list[Outlook](), list[Ended](), 0

    def following() -> Task | None:
        nonlocal begun
        if not waiting:
            return None
        points = waiting.popleft()
        begun += 1
        progress.stage(f"look at {begun} of {begun + len(waiting)}: {points[0].variant}")
        name = points[0].variant if len(points) > 1 else points[0].name
        return Task(name, outlooks_of, (points, spec, out))

    def told(answer: Ended) -> None:
        points = answer.task.arguments[0]
        if answer.error is None:
            found.extend(answer.value)
        elif len(points) > 1:
            waiting.extend([point] for point in points)
        else:
            bad.append(answer)

    spread(workers, following, told)
    if not found:
        raise InputError("nothing to sweep", str(bad[0].error).rstrip("."), "Correct the spec")
    return found, bad


def in_turn(versions: Sequence[Version]) -> list[Version]:
    """Versions of models, those first that each change one thing that none before them does.

    What several share, a size or the order in which heads go, is then made while others have work of their own.
    """
    begun, first, rest = set[tuple[str, str]](), list[Version](), list[Version]()
    for version in versions:
        model, size, heads, neurons = version
        changes = {f"size {size}"} if size else set[str]()
        changes |= {name for name, amount in (("heads", heads), ("neurons", neurons)) if amount}
        new = {(model, each) for each in changes} - begun
        (first if len(changes) <= len(new) <= 1 else rest).append(version)
        begun |= new
    return first + rest


def outlooks_of(points: Sequence[Point], spec: Spec, out: Path, progress: Progress) -> list[Outlook]:
    """What is known of the points of one version. Raises EdgevitError."""
    return [outlook_of(point, spec, out, progress) for point in points]


def outlook_of(point: Point, spec: Spec, out: Path, progress: Progress) -> Outlook:
    """The least that a point loses and costs. Raises EdgevitError."""
    with open_run(out / "outlook" / point.folder) as run:
        conversion = Conversion(job_of(point, spec, out), run, progress)
        _ = conversion.image_sets  # what is wrong with the images is said before any work
        steps = len(conversion.reductions)
        lost = conversion.measure_reductions()[-1] if steps else None
        (board,) = conversion.job.targets
        priced = costs(conversion, steps)
        told = (
            priced[0]["latency"]
            if priced
            else latency({}, board, conversion.multiplications, point.precision)
        )
    return Outlook(
        point,
        0.0 if lost is None else lost.metrics["drop_low"] or 0.0,
        ms=None if told is None else told["latency_ms"],
        ms_low=None if told is None else told["low_ms"],
        cycles=priced[0]["cycles"] if priced else None,
    )
