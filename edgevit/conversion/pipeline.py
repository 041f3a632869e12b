"""The stages of a conversion and their order: `before_targets`, `of_target`, `after_targets`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgevit.backends.protocol import Backend, CompileRequest
from edgevit.backends.registry import backend_of
from edgevit.conversion import sources
from edgevit.conversion.inputs import Inputs
from edgevit.errors import EdgevitError
from edgevit.progress import Progress
from edgevit.quantize.plan import PrecisionPlan, read_plan
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


# In int8 their squares need rows whose large values a rotation has spread; where only cost is asked for, no images
# are given and nothing is lost.
NEED_ROTATION = ("norms-by-exponentials",)

# Conditioning scales q and k, which only the folded attention scale leaves room for; not every compiler takes it.
NEEDED_TO_CONDITION = "fold-attention-scale"

# Of an [npu] section: what the exported graph doesn't depend on.
NOT_IN_GRAPH = {"cpu_ops", "target", "sixteen_bit", "never_sixteen_bit"}


class Conversion(Inputs):
    """The steps of one job in one run directory, each made when first asked for and kept."""

    def rewrites(self, board: Board) -> list[str]:
        """The exact rewrites that pay on a board, less those the user left out."""
        known = self.model.metrics["canonical"]
        return [each for each in board.rewrites if known and each not in self.job.without]

    def exported(self, board: Board, precision: str) -> Step:
        """The float graph a backend starts from, proved against torch on real images.

        For int8, where recipe, model and backend allow, it is conditioned and comes with a plan of ranges.
        """
        backend, recipe = backend_of(board), self.job.recipe
        rewrites = self.rewrites(board)
        conditioned = self.could_condition(board, precision) and NEEDED_TO_CONDITION in rewrites
        if precision == "int8" and not conditioned and self.calibration is not None:
            rewrites = [each for each in rewrites if each not in NEED_ROTATION]
        limits = board.npu.model_dump(mode="json", exclude=NOT_IN_GRAPH) if board.npu else None
        inputs = {
            "model": self.exporting_key,
            "images": self.probe.key,
            "export_format": backend.export_format,
            "rewrites": rewrites,
            "limits": limits if rewrites else None,
            "npu": board.npu is not None,
            "conditioning": [recipe.observer, recipe.seed] if conditioned else None,
        }

        def make(folder: Path) -> dict[str, Any]:
            from edgevit.conversion import reference

            pixels = np.load(self.probe.path("pixels.npy"), mmap_mode="r")
            if conditioned:
                self.progress.stage("condition for int8 and check against torch")
                return reference.export_conditioned(
                    self.exporting,
                    np.asarray(pixels),
                    folder,
                    rewrites,
                    board.npu,
                    backend.fusion,
                    recipe,
                    self.progress,
                )
            self.progress.stage("export and check against torch")
            few = np.asarray(pixels[: reference.PARITY_IMAGES])
            return reference.export(self.exporting, few, folder, backend.export_format, rewrites, board.npu)

        return self.run.step("export", inputs, make)

    def vendor_float(self, board: Board, precision: str) -> Step | None:
        """The vendor's own float file of an exported program; None for a backend that starts from the graph."""
        backend = backend_of(board)
        convert_float = backend.convert_float
        if convert_float is None:
            return None
        exported = self.exported(board, precision)
        inputs = {"export": exported.key, "tools": backend.tools()}

        def make(folder: Path) -> dict[str, Any]:
            self.progress.stage(f"{board.id}: convert in float")
            return {"file": convert_float(exported.path("model.pt2"), folder, self.progress).name}

        return self.run.step(f"{backend.name}-float", inputs, make)

    def could_condition(self, board: Board, precision: str) -> bool:
        """Whether recipe, model and backend agree to condition for int8."""
        able = self.model.metrics["conditionable"] and backend_of(board).takes_ranges
        return bool(self.job.recipe.conditioning and precision == "int8" and able)

    def notes(self, board: Board, precision: str) -> list[str]:
        """Where a target does not follow the recipe, and why."""
        if not self.could_condition(board, precision):
            return []
        if NEEDED_TO_CONDITION not in self.rewrites(board):
            left_out = NEEDED_TO_CONDITION in self.job.without
            why = "--without leaves it out" if left_out else f"{board.id}'s compiler does not take it"
            return [
                f"int8 without conditioning and without a search: they need {NEEDED_TO_CONDITION}, and {why}"
            ]
        if self.job.recipe.observer == "vendor":
            return ["the recipe leaves ranges to the vendor; a conditioned model takes measured ones instead"]
        return []

    def name_of(self, board: Board, precision: str) -> str:
        """The name of the step that makes an artefact."""
        return f"{board.id}-{precision}"

    def measure_reductions(self) -> list[Step | None]:
        """Accuracy after each lossy step; None where there are no validation images."""
        return [self.evaluated(self.reduction_outputs(step)) for step in self.reductions]

    def searches(self, board: Board, precision: str) -> bool:
        """Whether anything is searched for an artefact, as far as can be told before its export."""
        if precision == "float" or sources.folder_of(self.job, "calibration") is None:
            return False
        from edgevit.conversion import mixed_precision

        wanted = (
            self.job.plan is None
            and self.job.search_minutes > 0
            and NEEDED_TO_CONDITION in self.rewrites(board)
        )
        fits = wanted and self.could_condition(board, precision)
        return backend_of(board).quantizers is not None or (fits and mixed_precision.searchable(board))

    def planned(self, board: Board, precision: str) -> Step | None:
        """The search for the plan an artefact is made with, which may take minutes; None where there is none."""
        exported = self.exported(board, precision)
        if precision != "float" and self.calibration is not None and backend_of(board).quantizers is not None:
            return self.chosen(board, exported)
        minutes = self.job.search_minutes
        own = existing(exported.path("plan.toml"))
        if self.job.plan is not None or own is None or self.calibration is None or not minutes:
            return None
        from edgevit.conversion import mixed_precision

        if not mixed_precision.searchable(board):
            return None
        acceptance = self.job.acceptance
        inputs = {
            "export": exported.key,
            "calibration": self.calibration.key,
            "max_drop": acceptance.max_drop,
            "minutes": minutes,
            "board": board_key(board),
            "tools": backend_of(board).tools(),
        }

        def make(folder: Path) -> dict[str, Any]:
            assert self.calibration is not None
            self.progress.stage(f"{board.id} {precision}: search what must stay in 16 bits")
            search = mixed_precision.Search(
                model=self.exporting,
                rewrites=self.rewrites(board),
                onnx=exported.path("model.onnx"),
                weights=exported.path("int8.safetensors"),
                plan=read_plan(own),
                effects=dict(exported.metrics["int8"]["effects"]),
                calibration=self.calibration.path("pixels.npy"),
                board=board,
                acceptance=acceptance,
                minutes=minutes,
                state=self.run.unfinished / f"search-{board.id}-{exported.key[:12]}.json",
            )
            return mixed_precision.search_plan(search, folder, self.progress)

        return self.run.step(f"search-{board.id}", inputs, make)

    def chosen(self, board: Board, exported: Step) -> Step:
        """Which of a backend's ways to quantize is taken, by accuracy and latency on calibration images."""
        from edgevit.conversion import recipe_choice

        assert self.calibration is not None
        backend, vendor_float = backend_of(board), self.vendor_float(board, "int8")
        choice = recipe_choice.Choosing(
            source_model=vendor_float.path(vendor_float.metrics["file"])
            if vendor_float
            else exported.path("model.onnx"),
            board=board,
            delegate=recipe_choice.delegate_of(board, self.job.delegate),
            preprocessing=self.preprocessing,
            calibration=self.calibration.path("pixels.npy"),
            plan=plan_of(self.job, "int8", backend),
            fixed=recipe_choice.fixed_recipe(backend, self.job.plan, self.job.recipe),
            acceptance=self.job.acceptance,
        )
        inputs = {
            "export": exported.key,
            "calibration": self.calibration.key,
            "delegate": choice.delegate,
            "fixed": choice.fixed,
            "max_drop": choice.acceptance.max_drop,
            "plan": choice.plan.to_json(),
            "tools": backend_of(board).tools(),
        }

        def make(folder: Path) -> dict[str, Any]:
            self.progress.stage(f"{backend.name} int8: try ways to quantize")
            return recipe_choice.choose_plan(choice, folder, self.progress)

        return self.run.step(f"choice-{backend.name}-{choice.delegate}", inputs, make)

    def plan(self, board: Board, precision: str) -> PrecisionPlan:
        """The precision plan of an artefact: the user's, the search's, or the recipe's."""
        if precision == "float":
            return plan_of(self.job, precision, backend_of(board))
        searched = self.planned(board, precision)
        found = existing((searched or self.exported(board, precision)).path("plan.toml"))
        plan = read_plan(found) if found else plan_of(self.job, precision, backend_of(board))
        if self.job.plan is None:
            return plan
        from edgevit.conversion.mixed_precision import merged

        return merged(plan, self.job.plan, board)

    def compiled(self, board: Board, precision: str) -> Step:
        """The artefact, and its outputs on the validation images."""
        backend = backend_of(board)
        exported, validation = self.exported(board, precision), self.validation
        plan, vendor_float = self.plan(board, precision), self.vendor_float(board, precision)
        inputs = {
            "export": exported.key,
            "calibration": self.probe.key if plan.quantized else None,
            "validation": validation.key if validation else None,
            "plan": plan.to_json(),
            "board": board_key(board),
            "tools": backend.tools(),
        }

        def make(folder: Path) -> dict[str, Any]:
            self.progress.stage(f"{board.id} {precision}: compile")
            request = CompileRequest(
                onnx=existing(exported.path("model.onnx")),
                vendor_float=vendor_float.path(vendor_float.metrics["file"]) if vendor_float else None,
                plan=plan,
                board=board,
                preprocessing=self.preprocessing,
                calibration=self.probe.path("pixels.npy"),
                evaluate=validation.path("pixels.npy") if validation else None,
                out=folder,
            )
            result = backend.compile(request, self.progress)
            return {
                "artefact": result.artefact.name,
                "how": result.how,
                "tools": result.tools,
                "details": result.details,
            }

        return self.run.step(self.name_of(board, precision), inputs, make)


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
    if job.compression.any:
        stages.append(Stage("make smaller", lambda: conversion.reductions))
    if sources.folder_of(job, "validation") is not None:
        stages.append(Stage("float", lambda: conversion.reference))
        if job.compression.any:
            stages.append(Stage("evaluate the smaller model", conversion.measure_reductions))
    return stages


def of_target(conversion: Conversion, pair: Pair) -> list[Stage]:
    """What one target needs, in order; the first needs torch, the others the vendor's tools."""
    name = "-".join((pair[0].id, pair[1]))
    stages = [Stage(f"export for {name}", partial(conversion.exported, *pair))]
    if conversion.searches(*pair):
        stages.append(Stage(f"search for {name}", partial(conversion.planned, *pair)))
    stages.append(Stage(name, partial(conversion.compiled, *pair)))
    if sources.folder_of(conversion.job, "validation") is not None:
        stages.append(Stage(f"evaluate {name}", lambda: conversion.evaluated(conversion.compiled(*pair))))
    return stages


def after_targets(conversion: Conversion) -> list[Stage]:
    """What is only told: the cost of each lossy step by the vendor's compiler."""
    from edgevit.conversion import inspection

    if not conversion.job.compression.any or all(board.npu is None for board in conversion.job.targets):
        return []
    return [Stage("cost of each lossy step", lambda: inspection.all_costs(conversion))]


def convert(
    job: Job, run: Run, progress: Progress, live: LoadedModel | None = None
) -> tuple[Conversion, list[Outcome]]:
    """Run every stage of a job that isn't cached yet; return what each target came to, in the order asked for.

    `live` is the model where it is at hand; else the job names it.
    A target that fails leaves the others alone. Raises the first target's error where all of them failed.
    """
    conversion = Conversion(job, run, progress, live)
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
    with ThreadPoolExecutor(job.side_by_side or affordable(len(pairs))) as pool:
        list(pool.map(attempt, range(len(pairs)), [own[1:] for own in stages]))
    if len(failed) == len(pairs):
        raise failed[0]
    for stage in after_targets(conversion):
        stage.make()
    return conversion, [
        Outcome(*pair, failed.get(number), None if number in failed else conversion.compiled(*pair))
        for number, pair in enumerate(pairs)
    ]


def affordable(wanted: int) -> int:
    """How many targets to convert at once: each wants two cores and may take memory by the gigabyte."""
    by_memory = usable_memory() // WORKER_BYTES
    by_cores = usable_cores() // WORKER_CORES
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


def board_key(board: Board) -> dict[str, Any]:
    """What of a board's profile decides an artefact."""
    return board.model_dump(mode="json", exclude={"name", "source", "clocks", "temperature"})


def plan_of(job: Job, precision: str, backend: Backend) -> PrecisionPlan:
    """The precision plan a recipe asks for, with the options of one backend."""
    return PrecisionPlan(
        precision, {backend.name: backend.options_of(job.recipe.options).model_dump(exclude_none=True)}
    )


def existing(path: Path) -> Path | None:
    """The path if there is such a file."""
    return path if path.exists() else None
