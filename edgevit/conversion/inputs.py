"""What goes into an export: the model, its images, the float reference, and what lossy steps left of the model."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgevit.conversion import questions, sources
from edgevit.errors import InputError
from edgevit.images.preprocessing import Preprocessing
from edgevit.outputs.output import Outputs, outputs_from
from edgevit.progress import Progress
from edgevit.request.job import Job
from edgevit.run.folder import Run, WouldRun
from edgevit.run.step import Step

if TYPE_CHECKING:
    from edgevit.cluster.tasks import Workers
    from edgevit.conversion.compression import Source
    from edgevit.images import ImageSet
    from edgevit.models import LoadedModel


class Inputs:
    """The steps of one job before its export, each made when first asked for.

    `live` is a model at hand, `workers` share the evaluation of many images.
    """

    def __init__(
        self,
        job: Job,
        run: Run,
        progress: Progress,
        live: LoadedModel | None = None,
        workers: Workers | None = None,
    ) -> None:
        self.job, self.run, self.progress, self.live, self.workers = job, run, progress, live, workers

    @cached_property
    def loaded(self) -> LoadedModel:
        """The model in memory. A dry run doesn't download one."""
        if self.live is not None:
            return sources.load(self.job, self.live)
        if self.run.dry and sources.is_downloaded(self.job):
            raise WouldRun("model")
        self.progress.stage("load model")
        return sources.load(self.job)

    @cached_property
    def model(self) -> Step:
        """What the model is: class count, preprocessing, where it came from. What it holds identifies it."""
        loaded = self.loaded
        files = {} if self.live is not None else sources.files_of(self.job)
        inputs = sources.identity(self.job.model, loaded, files)
        return self.run.step("model", inputs, lambda _: sources.describe(loaded))

    @property
    def outputs(self) -> Outputs:
        """What the model gives."""
        return outputs_from(self.model.metrics["outputs"])

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
        if self.job.compression.resolution is None:
            return None
        from edgevit.conversion import compression

        return compression.resized(self._source)

    @cached_property
    def reductions(self) -> list[Step]:
        """Every lossy step before export, in order; the last one's model is exported."""
        if not self.job.compression.any:
            return []
        if self.job.compression.recover and not self.outputs.first.means.classifies:
            raise InputError(
                "cannot use --recover",
                f"the model gives {self.outputs.first.means.description}, and class scores are distilled",
                "Leave it out, or make the classifier smaller first",
            )
        from edgevit.conversion import compression

        return compression.reductions(self._source, self.resized)

    @cached_property
    def exporting(self) -> LoadedModel:
        """The model to export: the one loaded, or what the lossy steps left of it."""
        if not self.reductions:
            return self.loaded
        from edgevit.conversion import compression

        return compression.reduced_model(self.loaded, self.reductions[-1])

    @property
    def multiplications(self) -> int | None:
        """Multiply-accumulates an image of what is exported; None where they can't be counted."""
        if self.reductions:
            return int(self.reductions[-1].metrics["multiplications"])
        found: int | None = self.model.metrics["multiplications"]
        return found

    @property
    def exporting_key(self) -> str:
        """What decides `exporting`."""
        return self.reductions[-1].key if self.reductions else self.model.key

    @property
    def _source(self) -> Source:
        from edgevit.conversion.compression import Source

        return Source(
            self.job,
            self.run,
            self.progress,
            self.model,
            loaded=lambda: self.loaded,
            images=lambda: self.fitting_images,
            pixels=self.fitting,
            recovery_images=self.recovery_images,
        )

    @cached_property
    def fitting_images(self) -> ImageSet | None:
        """The calibration images lossy steps are fitted on: more than a quantizer's few pay here."""
        most = self.job.calibration_images or sources.MAX_FITTING_IMAGES
        images = sources.image_set(self.job, "calibration", most, self.model.metrics, progress=self.progress)
        return self._apart_from_validation(images)

    def fitting(self, preprocessing: Preprocessing) -> Step | None:
        """Pixels of the images lossy steps are fitted on, or None where the user gave none."""
        return self._write_pixels("fitting", self.fitting_images, preprocessing)

    def _apart_from_validation(self, images: ImageSet | None) -> ImageSet | None:
        from edgevit.images import refuse_overlap

        validation = self.image_sets["validation"]
        if images is not None and validation is not None:
            refuse_overlap(images, validation)
        return images

    @cached_property
    def recovery_images(self) -> ImageSet | None:
        """The images to recover on, hashed; refused where validation has one of them. None: none given."""
        folder = self.job.compression.recover_images
        if folder is None:
            return None
        from edgevit.images import read_image_set

        classes = self.model.metrics["num_classes"]
        seed, most = self.job.seed, sources.MAX_RECOVERY_IMAGES
        images = read_image_set(
            folder, num_classes=classes, labelled=False, limit=most, seed=seed, progress=self.progress
        )
        return self._apart_from_validation(images)

    def reduction_outputs(self, step: Step) -> Step | None:
        """Float outputs on the validation images after a lossy step; None where there are no images.

        A step of its own: no lossy step can depend on the validation images.
        """
        preprocessing = Preprocessing.from_json(dict(step.metrics["preprocessing"]))
        validation = self._pixels("validation", preprocessing)
        if validation is None:
            return None

        def make(folder: Path) -> dict[str, Any]:
            from edgevit.conversion import compression
            from edgevit.conversion.reference import write_outputs

            model = compression.reduced_model(self.loaded, step)
            return write_outputs(
                model,
                validation.path("pixels.npy"),
                folder / "outputs.npy",
                self.progress,
                "measure the loss",
            )

        return self.run.step(f"{step.stage}-outputs", {"model": step.key, "images": validation.key}, make)

    @cached_property
    def image_sets(self) -> dict[str, ImageSet | None]:
        """The images of each role, hashed but not decoded; refused where the two share one."""
        from edgevit.images import refuse_overlap

        limits = {
            "calibration": self.job.calibration_images or self.job.recipe.calibration_images,
            "validation": self.job.validation_images,
        }
        sets = {
            role: sources.image_set(self.job, role, limit, self.model.metrics, progress=self.progress)
            for role, limit in limits.items()
        }
        calibration, validation = sets["calibration"], sets["validation"]
        if calibration is not None and validation is not None:
            refuse_overlap(calibration, validation)
        questions.check(self.job, self.outputs, validation)
        return sets

    @cached_property
    def calibration(self) -> Step | None:
        """Calibration pixels, or None where the user gave no images."""
        return self._pixels("calibration", self.preprocessing)

    @cached_property
    def calibration_labels(self) -> tuple[int, ...] | None:
        """Labels of the calibration images, by which a limit to points is judged; None where nobody set one."""
        step, images = self.calibration, self.image_sets["calibration"]
        if self.job.max_drop is None or step is None or images is None:
            return None
        kept = json.loads(step.path("images.json").read_text(encoding="utf-8"))["sha256"]
        return sources.calibration_labels(self.job, images, kept, self.model.metrics)

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
        return self._write_pixels(role, self.image_sets[role], preprocessing)

    def _write_pixels(self, role: str, images: ImageSet | None, preprocessing: Preprocessing) -> Step | None:
        if images is None:
            return None
        inputs = {"images": sources.fingerprint(images), "preprocessing": preprocessing.to_json()}

        def make(folder: Path) -> dict[str, Any]:
            return sources.write_images(images, preprocessing, folder, role, self.progress)

        return self.run.step(role, inputs, make)

    @cached_property
    def truth(self) -> Step | None:
        """Label maps or annotations of the validation images as the model sees them; None where there are none."""
        return questions.truth(
            self.job,
            self.run,
            self.outputs,
            self.preprocessing,
            self.image_sets["validation"],
            self.validation,
        )

    @cached_property
    def reference(self) -> Step | None:
        """Float outputs of the original on the validation images: what every artefact is compared with."""
        validation = self._pixels("validation", self.own_preprocessing)
        if validation is None:
            return None
        inputs = {"model": self.model.key, "images": validation.key}

        def make(folder: Path) -> dict[str, Any]:
            from edgevit.conversion.reference import write_outputs

            return write_outputs(
                self.loaded, validation.path("pixels.npy"), folder / "outputs.npy", self.progress
            )

        return self.run.step("float", inputs, make)

    @cached_property
    def preprocessing_check(self) -> Step | None:
        """Whether images are prepared as the model was trained; on validation, else on calibration images.

        None where the model has no classes to tell by.
        """
        from edgevit.conversion import preprocessing_check

        role = "validation" if self.image_sets["validation"] is not None else "calibration"
        images, step = self.image_sets[role], self._pixels(role, self.own_preprocessing)
        if images is None or step is None or self.outputs.classes is None:
            return None
        reference = self.reference if role == "validation" else None

        def make(_: Path) -> dict[str, Any]:
            self.progress.stage("check the preprocessing")
            sample = preprocessing_check.sample_of(
                self.loaded, images, step, None if reference is None else reference.path("outputs.npy")
            )
            found = preprocessing_check.check(self.loaded, sample, self.progress)
            if found["warning"]:
                self.progress.warn(found["warning"])
            return found

        return self.run.step("preprocessing", {"model": self.model.key, "images": step.key}, make)

    def evaluated(self, answered: Step | None) -> Step | None:
        """Accuracy of a step's outputs against the float reference; None without validation images."""
        reference, validation = self.reference, self.validation
        if reference is None or validation is None or answered is None:
            return None
        inputs = {"answers": answered.key, "reference": reference.key, "images": validation.key}
        truth, names = self.truth, self.model.metrics["labels"]
        inputs |= questions.key_of(self.job) | ({"truth": truth.key} if truth else {})

        def make(_: Path) -> dict[str, Any]:
            labels = np.load(validation.path("labels.npy")) if validation.metrics["labelled"] else None
            found = np.load(answered.path("outputs.npy"))
            expected = np.load(reference.path("outputs.npy"))
            accuracy = self.outputs.compare(found, expected, labels)
            told = questions.asked(self.job, accuracy, self.outputs, found, expected, labels, truth, names)
            return told.to_json()

        return self.run.step(f"evaluate-{answered.stage}", inputs, make)
