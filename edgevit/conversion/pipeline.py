"""The stages of a conversion and their order: `before_targets`, `of_target`, `after_targets`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from edgevit.cluster.tasks import Workers
from edgevit.conversion import inspection, proof, rewrite_repair, sources
from edgevit.conversion.artefacts import Conversion
from edgevit.errors import EdgevitError
from edgevit.progress import Progress
from edgevit.request.job import Job
from edgevit.run.folder import Run, WouldRun
from edgevit.run.limits import usable_cores, usable_memory
from edgevit.run.step import Step
from edgevit.targets.profiles import Board

if TYPE_CHECKING:
    from edgevit.models import LoadedModel

WORKER_BYTES, WORKER_CORES = 4 * 2**30, 2


@dataclass(frozen=True)
class Outcome:
    """What one target came to: the step that made its artefact, or why there is none."""

    board: Board
    precision: str
    error: EdgevitError | None
    step: Step | None


@dataclass(frozen=True)
class Stage:
    """A part of a conversion as a dry run lists it; `make` returns at once where it is done already."""

    name: str
    make: Callable[[], Any]


Pair = tuple[Board, str]


def before_targets(conversion: Conversion) -> list[Stage]:
    """What every target needs, in order."""
    job = conversion.job
    stages = [Stage("model", lambda: conversion.model)]
    for role in ("calibration", "validation"):
        if sources.folder_of(job, role) is not None:
            stages.append(Stage(role, partial(getattr, conversion, role)))
    measured = sources.folder_of(job, "validation") is not None
    if measured:
        stages.append(Stage("float", lambda: conversion.reference))
    if measured or sources.folder_of(job, "calibration") is not None:
        stages.append(Stage("preprocessing", lambda: conversion.preprocessing_check))
    if job.compression.any:
        stages.append(Stage("make smaller", lambda: conversion.reductions))
        if measured:
            stages.append(Stage("evaluate the smaller model", conversion.measure_reductions))
    return stages


def of_target(conversion: Conversion, pair: Pair) -> list[Stage]:
    """What one target needs, in order; the first needs torch, the others the vendor's tools."""
    name = "-".join((pair[0].id, pair[1]))
    stages = [Stage(f"export for {name}", partial(conversion.exported, *pair))]
    if proof.proves(conversion, pair[0]):
        stages.append(
            Stage(f"prove the compiler on {name}", partial(rewrite_repair.settled, conversion, *pair))
        )
    if conversion.searches(*pair):
        stages.append(Stage(f"search for {name}", partial(conversion.planned, *pair)))
    stages.append(Stage(name, partial(conversion.compiled, *pair)))
    if sources.folder_of(conversion.job, "validation") is not None:
        stages.append(Stage(f"evaluate {name}", lambda: conversion.evaluated(conversion.compiled(*pair))))
    return stages


def after_targets(conversion: Conversion) -> list[Stage]:
    """What is only told: the cost of each lossy step by the vendor's compiler."""
    if not conversion.job.compression.any or all(board.npu is None for board in conversion.job.targets):
        return []
    return [Stage("cost of each lossy step", lambda: inspection.all_costs(conversion))]


def convert(
    job: Job,
    run: Run,
    progress: Progress,
    live: LoadedModel | None = None,
    workers: Workers | None = None,
) -> tuple[Conversion, list[Outcome]]:
    """Run every stage of a job that isn't cached yet; return what each target came to, in the order asked for.

    `live` is the model where it is at hand; else the job names it. `workers` share the evaluation of many images:
    targets then come one after the other.
    A target that fails leaves the others alone. Raises the first target's error where all of them failed.
    """
    conversion = Conversion(job, run, progress, live, workers)
    _ = conversion.image_sets  # what is wrong with the images is said before any work
    for stage in before_targets(conversion):
        stage.make()
    pairs = [(board, precision) for board in job.targets for precision in job.precisions]
    failed: dict[int, EdgevitError] = {}

    def attempt(number: int, stages: list[Stage]) -> None:
        try:
            for stage in stages:
                if number not in failed:
                    stage.make()
        except EdgevitError as error:
            failed[number] = error

    stages = [of_target(conversion, pair) for pair in pairs]
    for number, own in enumerate(stages):
        attempt(number, own[:1])
    with ThreadPoolExecutor(1 if workers else job.side_by_side or affordable(len(pairs))) as pool:
        list(pool.map(attempt, range(len(pairs)), [own[1:] for own in stages]))
    if len(failed) == len(pairs):
        raise failed[0]
    for stage in after_targets(conversion):
        stage.make()
    return conversion, [
        Outcome(*pair, failed.get(number), None if number in failed else conversion.compiled(*pair))
        for number, pair in enumerate(pairs)
    ]


def affordable(wanted: int, fewest: int = 1) -> int:
    """How many targets to convert at once: each wants two cores and may take memory by the gigabyte.

    `fewest` are worth while on fewer cores, where there are as many.
    """
    cores, by_memory = usable_cores(), usable_memory() // WORKER_BYTES
    by_cores = max(cores // WORKER_CORES, min(cores, fewest))
    return int(max(1, min(wanted, by_memory, by_cores)))


def planned(job: Job, run: Run, progress: Progress) -> Iterator[tuple[str, str]]:
    """For a dry run: (stage, "cached" | "to do") in order, doing none of the work."""
    conversion = Conversion(job, run, progress)
    pairs = [(board, precision) for board in job.targets for precision in job.precisions]

    def state(stage: Stage) -> tuple[str, str]:
        try:
            stage.make()
            return stage.name, "cached"
        except WouldRun:
            return stage.name, "to do"

    yield from map(state, before_targets(conversion))
    for pair in pairs:
        try:
            yield from map(state, of_target(conversion, pair))
        except WouldRun:  # what is to be done depends on a model that isn't here yet
            yield "-".join((pair[0].id, pair[1])), "to do"
    yield from map(state, after_targets(conversion))
