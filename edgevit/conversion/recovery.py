"""The recovery step: distillation from the original on unlabelled images, resumable after a kill."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from edgevit.conversion.compression_stages import Made, Work
from edgevit.errors import InputError
from edgevit.images import ImageSet, write_pixels
from edgevit.images.preprocessing import Preprocessing
from edgevit.run.step import Step
from edgevit.training.distill import recover


def recover_step(
    work: Work,
    *,
    minutes: float,
    images: ImageSet | None,
    full: Step | None,
    own: Step | None,
    checkpoint: Path,
) -> Made:
    """Distil the smaller model for at most `minutes` on `images`, else on the calibration images' pixels.

    `full` are the calibration pixels as the original sees them, `own` as the smaller model does.
    """
    start, original = work.start, work.original
    if images is not None:
        theirs = rendered(images, original.preprocessing, work)
        ours = theirs if same_pixels(work) else rendered(images, start.preprocessing, work)
    elif full is not None and own is not None:
        theirs, ours = inputs_of(original.preprocessing, full), inputs_of(start.preprocessing, own)
    else:
        raise InputError(
            "cannot recover", "there are no images to learn from", "Pass --calibration or --recover-images"
        )
    work.progress.stage("recover")
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    found = recover(
        start.module,
        original.module,
        ours,
        teacher_inputs=theirs,
        minutes=minutes,
        checkpoint=checkpoint,
        seed=work.job.seed,
        progress=work.progress,
    )
    details = {
        "improved": found.improved,
        "before": asdict(found.before),
        "after": asdict(found.after),
        "images": found.images,
        "images_from": "calibration" if images is None else str(images.source),
        "steps": found.steps,
        "seconds": round(found.seconds, 1),
        "stopped": found.stopped,
        "resumed": found.resumed,
        "checks": [list(check) for check in found.checks],
    }
    label = "recovered" if found.improved else "not recovered"
    return Made(found.module, start.preprocessing, label, found.what, (), details)


def same_pixels(work: Work) -> bool:
    """Whether original and smaller model see a picture alike."""
    return work.original.preprocessing == work.start.preprocessing


def rendered(images: ImageSet, preprocessing: Preprocessing, work: Work) -> torch.Tensor:
    """Pictures decoded and normalised for a model, [n, C, H, W]."""
    path = work.folder / "pixels.npy"
    work.progress.stage("read recovery images")
    kept = write_pixels(images, preprocessing, path, work.progress)
    for skipped, why in kept.skipped:
        work.progress.warn(f"skipped {skipped.name}: {why}")
    found = torch.from_numpy(preprocessing.normalise(np.load(path)))
    path.unlink()
    return found


def inputs_of(preprocessing: Preprocessing, step: Step) -> torch.Tensor:
    """A step's pixels normalised for a model, [n, C, H, W]."""
    return torch.from_numpy(preprocessing.normalise(np.load(step.path("pixels.npy"))))


def fingerprint(images: ImageSet) -> str:
    """Hex sha256 of the images' contents, in order."""
    return hashlib.sha256(json.dumps(images.digests).encode()).hexdigest()


def forget(checkpoint: Path) -> None:
    """Remove a finished recovery's checkpoint, and its folder when it is the last."""
    checkpoint.unlink(missing_ok=True)
    if checkpoint.parent.is_dir() and not any(checkpoint.parent.iterdir()):
        checkpoint.parent.rmdir()
