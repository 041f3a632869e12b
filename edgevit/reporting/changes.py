"""What changed on the validation images: classes that lost or won, images whose prediction is another now."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.special import softmax

from edgevit.outputs.detections import without_unsure
from edgevit.outputs.pictures import Pixels as ImagesSeen
from edgevit.reporting.sections import (
    Captioned,
    ChangedImage,
    Changes,
    ClassChange,
    Classes,
    PictureRow,
    Pictures,
)
from edgevit.reporting.text import clean
from edgevit.run.manifest import StepRecord
from edgevit.run.reading import RunFiles
from edgevit.run.results import Result

SHOWN_IMAGES = 18
SHOWN_CLASSES = 8
SHOWN_ROWS = 8  # of several pictures each
THUMBNAIL = 112
FEW_PIXELS = 64  # a side: a map, of which a JPEG would keep little
QUALITY = 72
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Predictions:
    """Both models' answers on the validation images, [n] and [n, classes]; `labels` None where there are none."""

    reference: Array
    outputs: Array
    labels: Array | None
    names: tuple[str, ...] | None

    def name(self, index: int) -> str:
        """A class by its name where it is known, else by its number."""
        if self.names is not None and 0 <= index < len(self.names):
            return clean(self.names[index], 60)
        return f"class {index}"


def predictions(run: RunFiles, result: Result, names: tuple[str, ...] | None) -> Predictions:
    """Read both models' outputs. Raises LookupError where arrays are missing, damaged or don't belong together."""
    step, manifest = run.manifest.step(result.step), run.manifest
    reference, outputs = both(run, result)
    labelled = manifest.images.validation is not None and manifest.images.validation.labelled
    labels = run.array(run.validation_of(step), "labels.npy") if labelled else None
    if labels is not None and labels.shape != outputs.shape[:1]:
        raise LookupError("there are not as many labels as outputs")
    first = manifest.model.gives
    return Predictions(first.split(reference)[0], first.split(outputs)[0], labels, names)


def both(run: RunFiles, result: Result) -> tuple[Array, Array]:
    """The float model's rows and an artefact's. Raises LookupError where they don't belong together."""
    step, manifest = run.manifest.step(result.step), run.manifest
    reference, outputs = run.array(manifest.stage("float"), "outputs.npy"), run.array(step, "outputs.npy")
    if reference.ndim != 2 or reference.shape != outputs.shape or not len(outputs):
        raise LookupError("its outputs and the float model's have different shapes")
    size = sum(output.size for output in manifest.model.gives.each if output.shape)
    if size and size != outputs.shape[1]:
        raise LookupError("its outputs are not those of the model")
    return reference, outputs


def pictures(run: RunFiles, result: Result) -> Pictures | None:
    """The images whose first output changed most, with both answers; None where its kind has no pictures."""
    reference, outputs = both(run, result)
    gives = run.manifest.model.gives
    show = gives.first.means.show
    if show is None:
        return None
    validation = run.validation_of(run.manifest.step(result.step))
    names, pixels = file_names(run, validation), pixels_of(run, validation)
    channels = result.preprocessing.channels

    def image(index: int) -> Array | None:
        if pixels is None or not 0 <= index < len(pixels):
            return None
        return as_rgb(pixels[index], channels)

    ours, theirs = without_unsure(gives.each, *gives.side_by_side(outputs, reference))
    found = show(ours[0], theirs[0], ImagesSeen(image), SHOWN_ROWS)
    rows = tuple(
        PictureRow(
            name=clean(names[each.index], 120) if each.index < len(names) else f"image {each.index}",
            words=each.words,
            pictures=tuple(Captioned(caption, shown(picture)) for caption, picture in each.pictures),
        )
        for each in found.rows
    )
    return Pictures(found.title, found.total, found.n, rows)


def classes(found: Predictions) -> Classes | None:
    """Per-class outcome; None without labels."""
    if found.labels is None:
        return None
    before, after = found.reference.argmax(1) == found.labels, found.outputs.argmax(1) == found.labels
    rows, same = [], 0
    for label in np.unique(found.labels):
        mine = found.labels == label
        lost, won = int((before & ~after)[mine].sum()), int((~before & after)[mine].sum())
        if not lost and not won:
            same += 1
            continue
        counts = int(mine.sum()), int(before[mine].sum()), int(after[mine].sum())
        rows.append(ClassChange(found.name(int(label)), *counts, lost, won))
    worst = sorted((row for row in rows if row.lost > row.won), key=lambda row: (row.won - row.lost, row.n))
    best = sorted((row for row in rows if row.won > row.lost), key=lambda row: (row.lost - row.won, row.n))
    return Classes(tuple(worst[:SHOWN_CLASSES]), tuple(best[:SHOWN_CLASSES]), len(rows), same)


def changes(run: RunFiles, result: Result, found: Predictions) -> Changes:
    """Images whose prediction changed; images that were right before come first, the surest of them on top."""
    before, after = found.reference.argmax(1), found.outputs.argmax(1)
    changed = np.flatnonzero(before != after)
    surest = softmax(found.reference[changed].astype(np.float64), axis=1).max(1, initial=0.0)
    order = {"lost": 0, "won": 1, "other": 2}
    ranked = sorted(
        zip(changed.tolist(), surest.tolist(), strict=True),
        key=lambda pair: (order[kind(found, pair[0])], -pair[1], pair[0]),
    )
    validation = run.validation_of(run.manifest.step(result.step))
    names, pixels = file_names(run, validation), pixels_of(run, validation)
    channels = result.preprocessing.channels
    shown = [changed_image(found, index, names, pixels, channels) for index, _ in ranked[:SHOWN_IMAGES]]
    return Changes(len(changed), len(before), tuple(shown))


def changed_image(
    found: Predictions, index: int, names: list[str], pixels: Array | None, channels: str
) -> ChangedImage:
    """One image with both answers."""
    before, after = found.reference[index], found.outputs[index]
    first, then = int(before.argmax()), int(after.argmax())
    return ChangedImage(
        name=clean(names[index], 120) if index < len(names) else f"image {index}",
        index=index,
        kind=kind(found, index),
        truth=None if found.labels is None else found.name(int(found.labels[index])),
        before=found.name(first),
        before_probability=float(softmax(before.astype(np.float64))[first]),
        after=found.name(then),
        after_probability=float(softmax(after.astype(np.float64))[then]),
        thumbnail=thumbnail(pixels[index], channels) if pixels is not None and index < len(pixels) else None,
    )


def kind(found: Predictions, index: int) -> Literal["lost", "won", "other"]:
    """Whether the float model, the artefact or neither is right on an image."""
    if found.labels is None:
        return "other"
    label = found.labels[index]
    if found.reference[index].argmax() == label:
        return "lost"
    return "won" if found.outputs[index].argmax() == label else "other"


def file_names(run: RunFiles, validation: StepRecord | None) -> list[str]:
    """The images' file names in order; empty where they weren't kept."""
    try:
        names = json.loads(run.path(validation, "images.json").read_bytes())["names"]
    except (LookupError, OSError, ValueError, TypeError):
        return []
    return [str(name) for name in names] if isinstance(names, list) else []


def pixels_of(run: RunFiles, validation: StepRecord | None) -> Array | None:
    """What the model saw, uint8 [n, height, width, channels]; None where it is gone."""
    try:
        pixels = run.array(validation, "pixels.npy")
    except LookupError:
        return None
    return pixels if pixels.ndim == 4 and pixels.dtype == np.uint8 and pixels.shape[3] in (1, 3) else None


def as_rgb(pixels: Array, channels: str) -> Array:
    """Pixels [height, width, 3] of an image in a model's own order of channels."""
    if pixels.shape[2] == 1:
        return np.repeat(pixels, 3, axis=2)
    return np.ascontiguousarray(pixels[..., ::-1] if channels == "BGR" else pixels)


def thumbnail(pixels: Array, channels: str) -> str:
    """A small JPEG of an image as a data URI."""
    return encoded(as_rgb(pixels, channels))


def shown(picture: Array) -> str:
    """A picture as a data URI; of few pixels, each of which counts, all of them."""
    if max(picture.shape[:2]) > FEW_PIXELS:
        return encoded(picture)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def encoded(picture: Array) -> str:
    """A small JPEG of a picture [height, width, 3] as a data URI."""
    image, buffer = Image.fromarray(picture), io.BytesIO()
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    image.save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
