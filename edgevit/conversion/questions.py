"""What a user asks of outputs besides their kind's own question: a score, classes by texts, label maps."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgevit.errors import InputError
from edgevit.files import sha256_file, write_atomically
from edgevit.images.annotations import read_annotations
from edgevit.images.label_maps import map_files, read_maps
from edgevit.outputs import metric
from edgevit.outputs.average_precision import by_annotations
from edgevit.outputs.detections import places_of
from edgevit.outputs.output import Outputs
from edgevit.request.job import Job
from edgevit.run.folder import Run
from edgevit.run.step import Step

if TYPE_CHECKING:
    from edgevit.images import ImageSet
    from edgevit.images.preprocessing import Preprocessing
    from edgevit.metrics.classification import Accuracy


MAPS, BOXES = "maps.npy", "annotations.json"


def check(job: Job, outputs: Outputs, validation: ImageSet | None) -> None:
    """Raises InputError for what can't be asked of these outputs and images, before any work."""
    if job.label_maps is not None:
        if not outputs.first.means.classes_of_places:
            raise InputError(
                "cannot use --label-maps",
                f"the model gives {outputs.first.means.description}",
                "Say --output NAME:segmentation where its map is of class scores",
            )
        if validation is not None:
            map_files(job.label_maps, validation.paths)
    if job.annotations is not None and places_of(outputs.each) is None:
        raise InputError(
            "cannot use --annotations",
            f"the model gives {outputs.first.means.description}, not boxes and scores",
            "Say --output NAME:boxes --output NAME:scores where it gives both",
        )
    if job.metric is not None:
        from edgevit.models.python_file import function_of

        function_of(job.metric)
    if job.text_embeddings is not None:
        metric.fit_texts(metric.read_text_embeddings(job.text_embeddings), outputs)
        if validation is None or validation.labels is None:
            raise InputError(
                "cannot use --text-embeddings",
                "the validation images have no labels",
                "Give class folders or a CSV path,label: the number of each image's text",
            )
    needs_labels = job.metric is None and outputs.first.means.classifies
    if job.max_drop is not None and validation is not None and validation.labels is None and needs_labels:
        raise InputError(
            f"cannot check --max-drop on {validation.source}",
            "its images have no labels",
            "Give class folders or a CSV path,label, or leave --max-drop out",
        )


def key_of(job: Job) -> dict[str, str]:
    """What decides how outputs are measured besides themselves: the contents of the user's own files."""
    files = {"metric": metric_file(job), "texts": job.text_embeddings}
    return {name: sha256_file(path) for name, path in files.items() if path is not None} | (
        {"function": job.metric} if job.metric else {}
    )


def metric_file(job: Job) -> Path | None:
    """The file of --metric FILE.py:FUNCTION. Raises InputError where there is none."""
    if job.metric is None:
        return None
    from edgevit.models.python_file import split

    return split(job.metric, "measure by", "a function of outputs and labels")[0]


def asked(
    job: Job,
    accuracy: Accuracy,
    outputs: Outputs,
    found: Any,
    reference: Any,
    labels: Any,
    truth: Step | None,
    names: Sequence[str] | None,
) -> Accuracy:
    """A measurement with what the user asks of the outputs: by `truth`, classes by texts, scores by a function.

    `names` are those of the model's classes, where it has any.
    """
    if truth is not None and job.label_maps is not None:
        accuracy = metric.by_label_maps(accuracy, outputs, np.load(truth.path(MAPS)), found, reference)
    if truth is not None and job.annotations is not None:
        boxes = json.loads(truth.path(BOXES).read_text(encoding="utf-8"))
        parts = outputs.split(found), outputs.split(reference)
        accuracy = by_annotations(accuracy, outputs.each, boxes, names, *parts)
    if job.text_embeddings is not None:
        texts = metric.read_text_embeddings(job.text_embeddings)
        accuracy = metric.by_texts(accuracy, outputs, texts, found, reference, labels)
    if job.metric is not None:
        from edgevit.models.python_file import function_of

        name, function = function_of(job.metric)
        accuracy = metric.with_scores(accuracy, name, function, outputs, found, reference, labels)
    return accuracy


def truth(
    job: Job,
    run: Run,
    outputs: Outputs,
    preprocessing: Preprocessing,
    images: ImageSet | None,
    validation: Step | None,
) -> Step | None:
    """Label maps of the validation images at the size of the model's map, or annotations in its pixels.

    None where there are none.
    """
    if images is None or validation is None:
        return None
    kept = json.loads(validation.path("images.json").read_text(encoding="utf-8"))["sha256"]
    by_content = dict(zip(images.digests, images.paths, strict=True))
    photographs = [by_content[digest] for digest in kept]
    if job.label_maps is not None:
        return label_maps(job.label_maps, run, outputs, preprocessing, photographs, validation)
    if job.annotations is not None:
        return true_boxes(job.annotations, run, preprocessing, photographs, validation)
    return None


def true_boxes(
    file: Path, run: Run, preprocessing: Preprocessing, photographs: list[Path], validation: Step
) -> Step:
    """Boxes of the validation images in the model's pixels."""
    inputs = {
        "images": validation.key,
        "annotations": sha256_file(file),
        "preprocessing": preprocessing.to_json(),
    }

    def make(out: Path) -> dict[str, Any]:
        found = read_annotations(file, photographs, preprocessing)
        write_atomically(out / BOXES, json.dumps(found))
        return {"n": len(photographs), "boxes": len(found["annotations"])}

    return run.step("annotations", inputs, make)


def label_maps(
    folder: Path,
    run: Run,
    outputs: Outputs,
    preprocessing: Preprocessing,
    photographs: list[Path],
    validation: Step,
) -> Step:
    """Label maps of the validation images at the size of the model's map."""
    files = map_files(folder, photographs)
    classes, height, width = outputs.first.shape
    inputs = {
        "images": validation.key,
        "maps": [sha256_file(file) for file in files],
        "size": [height, width],
    }

    def make(out: Path) -> dict[str, Any]:
        maps = read_maps(files, photographs, preprocessing, (height, width), classes)
        np.save(out / MAPS, maps)
        return {"n": len(maps)}

    return run.step("label-maps", inputs, make)
