"""THE order of stages: load, images, float reference, make smaller, export, compile, compare."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

from edgevit import sources
from edgevit.backends.protocol import CompileRequest
from edgevit.backends.registry import BACKENDS
from edgevit.job import Job
from edgevit.preprocessing import Preprocessing
from edgevit.progress import Progress
from edgevit.quantize.plan import PrecisionPlan, read_plan
from edgevit.schema import Board
from edgevit.store import Run, Step, WouldRun

if TYPE_CHECKING:
    from edgevit.images import ImageSet
    from edgevit.load import LoadedModel
    from edgevit.reduction import Source

WORKER_BYTES, WORKER_CORES = 4 * 2**30, 2


@dataclass(frozen=True)
class Outcome:
    """One artefact: where it is for, how it was made, the step that made it."""

    board: Board
    precision: str
    step: Step
    reference: Step | None


class Conversion:
    """The steps of one job in one run directory, each made when first asked for and kept."""

    def __init__(self, job: Job, run: Run, progress: Progress) -> None:
        self.job, self.run, self.progress = job, run, progress

    @cached_property
    def loaded(self) -> LoadedModel:
        """The model in memory: only loaded when a step that isn't cached needs it."""
        self.progress.stage("load model")
        return sources.load(self.job)

    @cached_property
    def model(self) -> Step:
        """What the model is: class count, preprocessing, where it came from."""
        return self.run.step("model", sources.identity(self.job), lambda _: describe(self.loaded))

    @property
    def own_preprocessing(self) -> Preprocessing:
        """The original model's preprocessing: what the float reference sees."""
        return Preprocessing.from_json(self.model.metrics["preprocessing"])

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """The preprocessing of what is exported: the original's, unless its resolution was changed."""
        if self.resized is None:
            return self.own_preprocessing
        return Preprocessing.from_json(dict(self.resized.metrics["preprocessing"]))

    @cached_property
    def resized(self) -> Step | None:
        """The model at another resolution; None where none was asked for."""
        if self.job.smaller.resolution is None:
            return None
        from edgevit import reduction

        return reduction.resized(self._source)

    @cached_property
    def reductions(self) -> list[Step]:
        """Every lossy step before export, in order; the last one's model is exported."""
        if not self.job.smaller.any:
            return []
        from edgevit import reduction

        return reduction.reductions(self._source, self.resized)

    @cached_property
    def exporting(self) -> LoadedModel:
        """The model to export: the one loaded, or what the lossy steps left of it."""
        if not self.reductions:
            return self.loaded
        from edgevit import reduction

        return reduction.reduced_model(self.loaded, self.reductions[-1])

    @property
    def exporting_key(self) -> str:
        """What decides `exporting`."""
        return self.reductions[-1].key if self.reductions else self.model.key

    @property
    def _source(self) -> Source:
        from edgevit.reduction import Source

        return Source(
            self.job,
            self.run,
            self.progress,
            self.model,
            loaded=lambda: self.loaded,
            images=lambda: self.image_sets["calibration"],
            pixels=partial(self._pixels, "calibration"),
            recovery_images=self.recovery_images,
        )

    @cached_property
    def recovery_images(self) -> ImageSet | None:
        """The images to recover on, hashed; refused where validation has one of them. None: none given."""
        folder = self.job.smaller.recover_images
        if folder is None:
            return None
        from edgevit.images import read_image_set, refuse_overlap

        classes = self.model.metrics["num_classes"]
        seed, most = self.job.seed, sources.MOST_RECOVERY_IMAGES
        images = read_image_set(
            folder, num_classes=classes, labelled=False, limit=most, seed=seed, progress=self.progress
        )
        if self.image_sets["validation"] is not None:
            refuse_overlap(images, self.image_sets["validation"])
        return images

    def reduction_logits(self, step: Step) -> Step | None:
        """Float logits on the validation images after a lossy step; None where there are no images.

        A step of its own: no lossy step can depend on the validation images.
        """
        preprocessing = Preprocessing.from_json(dict(step.metrics["preprocessing"]))
        validation = self._pixels("validation", preprocessing)
        if validation is None:
            return None

        def make(folder: Path) -> dict[str, Any]:
            from edgevit import reduction
            from edgevit.reference import write_logits

            model = reduction.reduced_model(self.loaded, step)
            return write_logits(
                model, validation.path("pixels.npy"), folder / "logits.npy", self.progress, "measure the loss"
            )

        return self.run.step(f"{step.stage}-logits", {"model": step.key, "images": validation.key}, make)

    @cached_property
    def image_sets(self) -> dict[str, ImageSet | None]:
        """The images of each role, hashed but not decoded; refused where the two share one."""
        from edgevit.images import refuse_overlap

        limits = {
            "calibration": self.job.calibration_images or self.job.recipe.calibration_images,
            "validation": self.job.validation_images,
        }
        num_classes = self.model.metrics["num_classes"]
        sets = {
            role: sources.image_set(self.job, role, limit, num_classes=num_classes, progress=self.progress)
            for role, limit in limits.items()
        }
        calibration, validation = sets["calibration"], sets["validation"]
        if calibration is not None and validation is not None:
            refuse_overlap(calibration, validation)
        return sets

    @cached_property
    def calibration(self) -> Step | None:
        """Calibration pixels, or None where the user gave no images."""
        return self._pixels("calibration", self.preprocessing)

    @cached_property
    def validation(self) -> Step | None:
        """Validation pixels and labels, or None where the user gave none."""
        return self._pixels("validation", self.preprocessing)

    @cached_property
    def probe(self) -> Step:
        """Images that exact steps are proved on: real ones where there are any, seeded noise otherwise."""
        step = self.calibration or self.validation
        if step is not None:
            return step
        preprocessing = self.preprocessing
        inputs = {"preprocessing": preprocessing.to_json()}
        return self.run.step("noise", inputs, lambda folder: sources.write_noise(preprocessing, folder))

    def _pixels(self, role: str, preprocessing: Preprocessing) -> Step | None:
        images = self.image_sets[role]
        if images is None:
            return None
        inputs = {"images": sources.fingerprint(images), "preprocessing": preprocessing.to_json()}

        def make(folder: Path) -> dict[str, Any]:
            return sources.write_images(images, preprocessing, folder, role, self.progress)

        return self.run.step(role, inputs, make)

    @cached_property
    def reference(self) -> Step | None:
        """Float logits of the original on the validation images: what every artefact is compared with."""
        validation = self._pixels("validation", self.own_preprocessing)
        if validation is None:
            return None
        inputs = {"model": self.model.key, "images": validation.key}

        def make(folder: Path) -> dict[str, Any]:
            from edgevit.reference import write_logits

            return write_logits(
                self.loaded, validation.path("pixels.npy"), folder / "logits.npy", self.progress
            )

        return self.run.step("float", inputs, make)

    def exported(self, board: Board, precision: str) -> Step:
        """The float graph a backend starts from, proved against torch on real images.

        For int8, where recipe, model and backend allow, it is conditioned and comes with a plan of ranges.
        """
        backend, recipe = BACKENDS[board.backend], self.job.recipe
        canonical = self.model.metrics["canonical"]
        surgeries = [each for each in board.surgeries if canonical and each not in self.job.without]
        conditioned = recipe.conditioning and precision == "int8" and canonical and backend.TAKES_RANGES
        limits = board.npu.model_dump(mode="json", exclude={"cpu_ops", "target"}) if board.npu else None
        inputs = {
            "model": self.exporting_key,
            "images": self.probe.key,
            "handover": backend.HANDOVER,
            "surgeries": surgeries,
            "limits": limits if surgeries else None,
            "conditioning": [recipe.observer, recipe.seed] if conditioned else None,
        }

        def make(folder: Path) -> dict[str, Any]:
            from edgevit import reference

            pixels = np.load(self.probe.path("pixels.npy"), mmap_mode="r")
            if conditioned:
                self.progress.stage("condition for int8 and check against torch")
                return reference.export_conditioned(
                    self.exporting, np.asarray(pixels), folder, surgeries, board.npu, recipe, self.progress
                )
            self.progress.stage("export and check against torch")
            few = np.asarray(pixels[: reference.PARITY_IMAGES])
            return reference.export(self.exporting, few, folder, backend.HANDOVER, surgeries, board.npu)

        return self.run.step("export", inputs, make)

    def compiled(self, board: Board, precision: str) -> Step:
        """The artefact, and its logits on the validation images."""
        backend = BACKENDS[board.backend]
        exported, validation = self.exported(board, precision), self.validation
        own = existing(exported.path("plan.toml"))
        plan = read_plan(own) if own else plan_of(self.job, precision)
        inputs = {
            "export": exported.key,
            "calibration": self.probe.key if plan.quantized else None,
            "validation": validation.key if validation else None,
            "plan": plan.to_json(),
            "board": board.model_dump(mode="json", exclude={"name", "source", "clocks", "temperature"}),
            "tools": backend.tools(),
        }

        def make(folder: Path) -> dict[str, Any]:
            self.progress.stage(f"{board.id} {precision}: compile")
            request = CompileRequest(
                onnx=existing(exported.path("model.onnx")),
                program=existing(exported.path("model.pt2")),
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

        return self.run.step(f"{board.id}-{precision}", inputs, make)


def convert(job: Job, run: Run, progress: Progress) -> tuple[Conversion, list[Outcome]]:
    """Run every stage of a job that isn't cached yet; return its artefacts in the order asked for."""
    conversion = Conversion(job, run, progress)
    for step in conversion.reductions:
        conversion.reduction_logits(step)
    reference = conversion.reference
    wanted = [(board, precision) for board in job.targets for precision in job.precisions]
    for pair in wanted:
        conversion.exported(*pair)

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
    if job.smaller.any:
        stages["make smaller"] = lambda: conversion.reductions
    if "validation" in stages:
        stages["float"] = lambda: conversion.reference
    for board in job.targets:
        for precision in job.precisions:
            stages[f"export for {board.id}-{precision}"] = partial(conversion.exported, board, precision)
            stages[f"{board.id}-{precision}"] = partial(conversion.compiled, board, precision)
    for name, make in stages.items():
        try:
            make()
            yield name, "cached"
        except WouldRun:
            yield name, "to do"


def plan_of(job: Job, precision: str) -> PrecisionPlan:
    """The precision plan a recipe asks for."""
    return PrecisionPlan(
        precision=precision,
        algorithm=job.recipe.rknn_algorithm,
        litert_recipe=job.recipe.litert_recipe,
    )


def describe(loaded: LoadedModel) -> dict[str, Any]:
    """The manifest's record of a loaded model."""
    return {
        "name": loaded.name,
        "source": loaded.source,
        "num_classes": loaded.num_classes,
        "canonical": loaded.canonical,
        "parity": loaded.parity,
        "labels": list(loaded.labels) if loaded.labels else None,
        "notes": list(loaded.notes),
        "preprocessing": loaded.preprocessing.to_json(),
        "parameters": sum(parameter.numel() for parameter in loaded.module.parameters()),
    }


def existing(path: Path) -> Path | None:
    """The path if there is such a file."""
    return path if path.exists() else None
