"""Are the images prepared as the model was trained? The usual other ways are tried on a few of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgevit.images import ImageSet
from edgevit.images.pixels import pixels_of
from edgevit.images.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from edgevit.metrics.preprocessing_fit import Fit, fit_of
from edgevit.models import LoadedModel
from edgevit.progress import QUIET, Progress
from edgevit.run.step import Step

FEWEST, FEW, MOST = 16, 32, 128  # images
MOST_FAULTS = 3  # one each of normalisation, order of channels and geometry
NORMALISATIONS = {
    "mean and deviation 0.5": ("--mean 0.5 --std 0.5", 0.5, 0.5),
    "ImageNet's mean and deviation": ("--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225", None, None),
    "pixels from 0 to 1": ("--mean 0 --std 1", 0.0, 1.0),
}
Pixels = npt.NDArray[np.uint8]
Outputs = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Alternative:
    """Another way to prepare images: in words, and the options that ask for it."""

    words: str
    options: str
    preprocessing: Preprocessing


def alternatives(own: Preprocessing) -> list[Alternative]:
    """The usual other ways, each one step away from a model's own."""
    count, found = len(own.mean), []
    for words, (options, mean, std) in NORMALISATIONS.items():
        if mean is None or std is None:
            other = replace(own, mean=IMAGENET_MEAN, std=IMAGENET_STD) if count == 3 else own
        else:
            other = replace(own, mean=(mean,) * count, std=(std,) * count)
        found.append(Alternative(words, options, other))
    swapped = {"RGB": "BGR", "BGR": "RGB"}.get(own.channels)
    if swapped is not None:
        # Each mean stays with its place in the input: what the model's own normalisation does is another question.
        words, options = f"{swapped} in place of {own.channels}", f"--channels {swapped}"
        found.append(Alternative(words, options, replace(own, channels=swapped)))
    if own.crop_mode == "squash":
        words, options = "a crop in place of squashing", f"--crop {own.crop_pct:g}"
        found.append(Alternative(words, options, replace(own, crop_mode="center")))
    elif own.crop_mode == "center":
        words, options = "squashing in place of a crop", "--crop squash"
        found.append(Alternative(words, options, replace(own, crop_mode="squash")))
    return [each for each in found if each.preprocessing != own]


@dataclass(frozen=True)
class Sample:
    """Images to try alternatives on: pixels uint8 [n, height, width, channels] as the model takes them now, their
    files, its outputs [n, classes] on them, labels [n] where there are any."""

    pixels: Pixels
    paths: Sequence[Path]
    outputs: Outputs
    labels: npt.NDArray[Any] | None


def sample_of(loaded: LoadedModel, images: ImageSet, step: Step, outputs: Path | None) -> Sample:
    """At most MOST images of a step's pixels, drawn from all; `outputs` is a file of the model's, if made."""
    from edgevit.conversion.reference import outputs_of

    by_content = dict(zip(images.digests, images.paths, strict=True))
    kept = json.loads(step.path("images.json").read_text(encoding="utf-8"))["sha256"]
    rows = np.random.default_rng(0).permutation(len(kept))[:MOST]
    pixels = np.load(step.path("pixels.npy"), mmap_mode="r", allow_pickle=False)[rows]
    labels = np.load(step.path("labels.npy"))[rows] if step.metrics["labelled"] else None
    if outputs is not None:
        answers = np.load(outputs, mmap_mode="r", allow_pickle=False)[rows]
    else:
        answers = outputs_of(loaded.module, pixels, loaded.preprocessing, QUIET)
    answers = loaded.outputs.split(answers)[0]
    return Sample(pixels, [by_content[kept[row]] for row in rows], answers, labels)


def check(loaded: LoadedModel, sample: Sample, progress: Progress = QUIET) -> dict[str, Any]:
    """Try the alternatives; what was tried and, where one is better beyond chance, a warning that says what to do.

    On FEW images first: most alternatives are out after those. Where one is better, the others are tried beside it.
    """
    best, answers = Alternative("", "", loaded.preprocessing), sample.outputs
    tried: list[dict[str, Any]] = []
    found: list[tuple[Alternative, Fit]] = []
    for _ in range(MOST_FAULTS if len(sample.paths) >= FEWEST else 0):
        round_: list[tuple[Alternative, Outputs, Fit]] = []
        others = alternatives(best.preprocessing)
        for number, other in enumerate(others):
            progress.advance(number, len(others), f"check preprocessing: {other.words}")
            gained, fit = compared(loaded, sample, other.preprocessing, answers)
            told = {"words": other.words, "n": len(gained), "better_by": round(fit.better_by, 2)}
            tried.append({**told, "top1": fit.top1})
            if fit.sure and len(gained) == len(answers):
                round_.append((other, gained, fit))
        if not round_:
            break
        best, answers, fit = max(round_, key=lambda each: each[2].better_by)
        found.append((best, fit))
    record: dict[str, Any] = {"n": len(sample.paths), "labelled": sample.labels is not None, "tried": tried}
    return {**record, "warning": warning(found, len(sample.paths)) if found else None}


def compared(
    loaded: LoadedModel, sample: Sample, other: Preprocessing, answers: Outputs
) -> tuple[Outputs, Fit]:
    """Outputs by another preprocessing, of all images unless the first few show that it is hopeless."""
    few = min(FEW, len(answers))
    gained = outputs_by(loaded, sample, other, 0, few)
    fit = fit_of(gained, answers[:few], None if sample.labels is None else sample.labels[:few])
    if few == len(answers) or fit.hopeless:
        return gained, fit
    gained = np.concatenate([gained, outputs_by(loaded, sample, other, few, len(answers))])
    return gained, fit_of(gained, answers, sample.labels)


def outputs_by(
    loaded: LoadedModel, sample: Sample, preprocessing: Preprocessing, start: int, stop: int
) -> Outputs:
    """Outputs on some of the images, prepared in another way; only another geometry decodes files again."""
    from edgevit.conversion.reference import outputs_of

    own = loaded.preprocessing
    if preprocessing.crop_mode == own.crop_mode:
        pixels = np.asarray(sample.pixels[start:stop])
    else:
        geometry = replace(preprocessing, channels=own.channels)
        pixels = np.stack([pixels_of(path, geometry) for path in sample.paths[start:stop]])
    if preprocessing.channels != own.channels:
        pixels = pixels[..., ::-1]
    found = outputs_of(loaded.module, np.ascontiguousarray(pixels), preprocessing, QUIET)
    classes: Outputs = loaded.outputs.split(found)[0]
    return classes


def warning(found: list[tuple[Alternative, Fit]], count: int) -> str:
    """What to do, with the figures."""
    words = " and ".join(each.words for each, _ in found)
    options = " ".join(each.options for each, _ in found)
    first, last = found[0][1], found[-1][1]
    if first.other_top1 is None or last.top1 is None:
        return (
            f"the images may be prepared in another way than the model was trained with: with {words} its "
            f"predictions tell {count} images apart better, by {first.better_by:.0f} standard errors. If you don't "
            f"know how it was trained, compare with {options}"
        )
    return (
        f"THE PREPROCESSING LOOKS WRONG: as the images are prepared, {100 * first.other_top1:.1f} % of {count} "
        f"labelled ones are classified right; with {words} {100 * last.top1:.1f} %. Convert again with {options}"
    )
