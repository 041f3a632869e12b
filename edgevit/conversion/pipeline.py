"""THE order of stages: load, images, make smaller, float reference, export, compile, compare."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from edgevit.backends.protocol import CompileRequest
from edgevit.backends.registry import BACKENDS, CANDIDATES, LOWERINGS
from edgevit.boards.profiles import Board
from edgevit.conversion import sources
from edgevit.conversion.inputs import Inputs
from edgevit.progress import Progress
from edgevit.quantize.plan import PrecisionPlan, read_plan
from edgevit.request.job import Job
from edgevit.run.store import Run, Step, WouldRun

WORKER_BYTES, WORKER_CORES = 4 * 2**30, 2


@dataclass(frozen=True)
class Outcome:
    """One artefact: where it is for, how it was made, the step that made it."""

    board: Board
    precision: str
    step: Step
    reference: Step | None


# In int8 their squares need rows whose large values a rotation has spread; where only cost is asked for, no images
# are given and nothing is lost.
NEED_ROTATION = ("norms-by-exponentials",)

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
        backend, recipe = BACKENDS[board.backend], self.job.recipe
        rewrites = self.rewrites(board)
        # Conditioning folds the attention scale, which not every compiler survives.
        conditionable = self.model.metrics["conditionable"]
        fits = conditionable and backend.TAKES_RANGES and "fold-attention-scale" in rewrites
        conditioned = recipe.conditioning and precision == "int8" and fits
        if precision == "int8" and not conditioned and self.calibration is not None:
            rewrites = [each for each in rewrites if each not in NEED_ROTATION]
        limits = board.npu.model_dump(mode="json", exclude=NOT_IN_GRAPH) if board.npu else None
        inputs = {
            "model": self.exporting_key,
            "images": self.probe.key,
            "handover": backend.HANDOVER,
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
                    self.exporting, np.asarray(pixels), folder, rewrites, board.npu, recipe, self.progress
                )
            self.progress.stage("export and check against torch")
            few = np.asarray(pixels[: reference.PARITY_IMAGES])
            return reference.export(self.exporting, few, folder, backend.HANDOVER, rewrites, board.npu)

        return self.step("export", inputs, make)

    def lowered(self, board: Board, precision: str) -> Step | None:
        """The vendor's own float file of an exported program; None for a backend that takes ONNX."""
        lower = LOWERINGS.get(board.backend)
        if lower is None:
            return None
        exported = self.exported(board, precision)
        inputs = {"export": exported.key, "tools": BACKENDS[board.backend].tools()}

        def make(folder: Path) -> dict[str, Any]:
            self.progress.stage(f"{board.id}: convert in float")
            return {"file": lower(exported.path("model.pt2"), folder, self.progress).name}

        return self.step(f"{board.backend}-float", inputs, make)

    def planned(self, board: Board, precision: str) -> Step | None:
        """The search for the plan an artefact is made with; None where there is nothing to search."""
        exported = self.exported(board, precision)
        if precision != "float" and self.calibration is not None and board.backend in CANDIDATES:
            return self.chosen(board, exported)
        minutes = self.job.search_minutes
        own = existing(exported.path("plan.toml"))
        if self.job.plan is not None or own is None or self.calibration is None or not minutes:
            return None
        from edgevit.conversion import mixed_precision

        if not mixed_precision.searchable(board):
            return None
        max_drop = self.job.allowed_drop
        inputs = {
            "export": exported.key,
            "calibration": self.calibration.key,
            "max_drop": max_drop,
            "minutes": minutes,
            "board": board_key(board),
            "tools": BACKENDS[board.backend].tools(),
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
                max_drop=max_drop,
                minutes=minutes,
                state=self.run.folder / "unfinished" / f"search-{board.id}.json",
            )
            return mixed_precision.search_plan(search, folder, self.progress)

        return self.step(f"search-{board.id}", inputs, make)

    def chosen(self, board: Board, exported: Step) -> Step:
        """Which of a backend's ways to quantize is taken, by accuracy and latency on calibration images."""
        from edgevit.conversion import recipe_choice

        assert self.calibration is not None
        lowered = self.lowered(board, "int8")
        choice = recipe_choice.Choosing(
            handed=lowered.path(lowered.metrics["file"]) if lowered else exported.path("model.onnx"),
            board=board,
            delegate=recipe_choice.delegate_of(board, self.job.delegate),
            preprocessing=self.preprocessing,
            calibration=self.calibration.path("pixels.npy"),
            plan=plan_of(self.job, "int8"),
            fixed=recipe_choice.fixed_recipe(board, self.job.plan, self.job.recipe),
            max_drop=self.job.allowed_drop,
        )
        inputs = {
            "export": exported.key,
            "calibration": self.calibration.key,
            "delegate": choice.delegate,
            "fixed": choice.fixed,
            "max_drop": choice.max_drop,
            "plan": choice.plan.to_json(),
            "tools": BACKENDS[board.backend].tools(),
        }

        def make(folder: Path) -> dict[str, Any]:
            self.progress.stage(f"{board.id} int8: try ways to quantize")
            return recipe_choice.choose_plan(choice, folder, self.progress)

        return self.step(f"choice-{board.id}", inputs, make)

    def plan(self, board: Board, precision: str) -> PrecisionPlan:
        """The precision plan of an artefact: the user's, the search's, or the recipe's."""
        if precision == "float":
            return plan_of(self.job, precision)
        searched = self.planned(board, precision)
        found = existing((searched or self.exported(board, precision)).path("plan.toml"))
        plan = read_plan(found) if found else plan_of(self.job, precision)
        if self.job.plan is None:
            return plan
        from edgevit.conversion.mixed_precision import merged

        return merged(plan, self.job.plan, takes_ranges=BACKENDS[board.backend].TAKES_RANGES, board=board)

    def compiled(self, board: Board, precision: str) -> Step:
        """The artefact, and its logits on the validation images."""
        backend = BACKENDS[board.backend]
        exported, validation = self.exported(board, precision), self.validation
        plan, lowered = self.plan(board, precision), self.lowered(board, precision)
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
                lowered=lowered.path(lowered.metrics["file"]) if lowered else None,
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

        return self.step(f"{board.id}-{precision}", inputs, make)


def convert(job: Job, run: Run, progress: Progress) -> tuple[Conversion, list[Outcome]]:
    """Run every stage of a job that isn't cached yet; return its artefacts in the order asked for."""
    conversion = Conversion(job, run, progress)
    _ = conversion.image_sets  # what is wrong with the images is said before any work
    for step in conversion.reductions:
        conversion.reduction_logits(step)
    reference = conversion.reference
    wanted = [(board, precision) for board in job.targets for precision in job.precisions]
    for pair in wanted:
        conversion.exported(*pair)
        conversion.lowered(*pair)

    def build(pair: tuple[Board, str]) -> Outcome:
        return Outcome(*pair, step=conversion.compiled(*pair), reference=reference)

    with ThreadPoolExecutor(job.side_by_side or affordable(len(wanted))) as pool:
        return conversion, list(pool.map(build, wanted))


def affordable(wanted: int) -> int:
    """How many targets to convert at once: each wants two cores and may take memory by the gigabyte."""
    by_memory: int = psutil.virtual_memory().available // WORKER_BYTES
    by_cores = (os.cpu_count() or 1) // WORKER_CORES
    return int(max(1, min(wanted, by_memory, by_cores)))


def planned(job: Job, run: Run, progress: Progress) -> Iterator[tuple[str, str]]:
    """For a dry run: (stage, "cached" | "to do") in order, doing none of the work."""
    conversion = Conversion(job, run, progress)
    stages: dict[str, Callable[[], Any]] = {"model": lambda: conversion.model}
    for role in ("calibration", "validation"):
        if sources.folder_of(job, role) is not None:
            stages[role] = partial(getattr, conversion, role)
    if job.compression.any:
        stages["make smaller"] = lambda: conversion.reductions
    if "validation" in stages:
        stages["float"] = lambda: conversion.reference
    for board in job.targets:
        for precision in job.precisions:
            stages[f"export for {board.id}-{precision}"] = partial(conversion.exported, board, precision)
            stages[f"search for {board.id}-{precision}"] = partial(conversion.planned, board, precision)
            stages[f"{board.id}-{precision}"] = partial(conversion.compiled, board, precision)
    for name, make in stages.items():
        try:
            make()
            yield name, "cached"
        except WouldRun:
            yield name, "to do"


def board_key(board: Board) -> dict[str, Any]:
    """What of a board's profile decides an artefact."""
    return board.model_dump(mode="json", exclude={"name", "source", "clocks", "temperature"})


def plan_of(job: Job, precision: str) -> PrecisionPlan:
    """The precision plan a recipe asks for."""
    return PrecisionPlan(
        precision=precision,
        algorithm=job.recipe.rknn_algorithm,
        litert_recipe=job.recipe.litert_recipe or PrecisionPlan.litert_recipe,
        onnx_recipe=job.recipe.onnx_recipe or PrecisionPlan.onnx_recipe,
    )


def existing(path: Path) -> Path | None:
    """The path if there is such a file."""
    return path if path.exists() else None
