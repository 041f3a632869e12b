"""Fine-tuning from a model's name to a folder that can be converted."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from edgevit.errors import InputError
from edgevit.finetuning import loop
from edgevit.finetuning.adapters import merged, targets_of, with_adapters
from edgevit.finetuning.features import fit_classifier, gather
from edgevit.finetuning.folder import write_folder
from edgevit.finetuning.job import BACKBONE, FinetuneJob
from edgevit.finetuning.learner import Learner, learner_of
from edgevit.finetuning.measure import confusion, outputs_of, some_of
from edgevit.finetuning.pictures import Pictures, Views, batches, read_pictures, readable
from edgevit.finetuning.teacher import teacher_of
from edgevit.finetuning.team import Team, team
from edgevit.images import ImageSet, read_image_set, refuse_overlap
from edgevit.images.preprocessing import Preprocessing
from edgevit.models.classifier import Trunk
from edgevit.progress import QUIET, Progress
from edgevit.run.folder import open_run
from edgevit.training import checkpoint

STATE = ".training.pt"
# Of the time there is, what a frozen backbone's features may take; training has views of its own.
FEATURE_SHARE = 0.8
MOST_VIEWS, FIRST_VIEWS = 6, 1


@dataclass(frozen=True)
class Finetuned:
    """What came of it. Shares are 0..1; those on validation images are None where there are none.

    `confusion` counts [class, predicted class] on validation images, else on held-out ones.
    """

    folder: Path
    names: tuple[str, ...]
    learnt: int
    held_out: int
    held_out_right: float
    validation: int
    validation_right: float | None
    confusion: npt.NDArray[np.int64]
    history: list[dict[str, float]]
    stopped: str
    seconds: float
    resumed: bool

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        values = asdict(self) | {"folder": str(self.folder), "confusion": self.confusion.tolist()}
        return values | {"names": list(self.names)}


def finetune(job: FinetuneJob, progress: Progress) -> Finetuned:
    """Learn a new classifier, or more of the model; write the folder. Raises EdgevitError.

    A fine-tuning that was killed goes on where it was, with the same model, pictures and settings. Of several
    processes that train together the first writes; all return what came of it.
    """
    begun = time.monotonic()
    me = team()
    progress = progress if me.first else QUIET
    with open_run(job.out) if me.first else nullcontext():
        progress.stage("read pictures")
        pictures = read_pictures(job.train, job.seed, progress)
        validation = validation_of(job, pictures, progress)
        progress.stage("load model")
        learner = learner_of(job, pictures.names)
        module, preprocessing = learner.module, learner.preprocessing
        pictures = readable(pictures, preprocessing, progress)
        weights = class_weights(pictures)
        kept = blocks_kept(job, module)
        if job.lora and kept is not None:
            targets_of(module, loop.blocks_of(module, kept)[kept:], learner.classifier, job.lora)
        teacher = None
        if job.teacher is not None:
            teacher = teacher_of(job.teacher, job.teacher_weights, pictures.names, preprocessing, me.device)
        key = checkpoint.fingerprint(
            module.state_dict(), (), repr((job.settings(), preprocessing, pictures.images.digests))
        )
        state = me.agreed(checkpoint.load(job.out / STATE, key) if me.first else None)
        if state is None:
            held_right = start_classifier(learner, pictures, weights, job, me, kept is None, progress)
        training: loop.Training | None = None
        stopped = "the backbone was frozen: the best classifier was computed"
        if kept is not None:
            if job.lora:
                blocks = loop.blocks_of(module, kept)[kept:]
                module = with_adapters(module, blocks, learner.classifier, job.lora)
            training = loop.Training(
                module,
                len(pictures.names),
                weights,
                steps=-(-len(pictures.learnt) // loop.BATCH),
                epochs=job.epochs,
                seconds=60 * job.minutes,
                me=me,
                teacher=teacher,
                **loop.adapted(module) if job.lora else loop.partly_frozen(module, kept),
            )
            if state is not None:
                training.restore(state)
            else:
                training.spent = time.monotonic() - begun
            stopped = train(training, pictures, preprocessing, job, key, progress)
            module.load_state_dict(training.best)
            held_right = training.history.epochs[training.history.best_epoch]["held_out_right"]
            if job.lora:
                module = merged(module)
        module = module.cpu().eval().requires_grad_(False)
        if me.first:
            progress.stage("measure")
            images = validation or some_of(pictures.images, pictures.held_out)
            counts = confusion(module, images, len(pictures.names), preprocessing, progress)
            result = Finetuned(
                folder=job.out,
                names=pictures.names,
                learnt=len(pictures.learnt),
                held_out=len(pictures.held_out),
                held_out_right=held_right,
                validation=0 if validation is None else int(counts.sum()),
                validation_right=None if validation is None else float(np.trace(counts) / counts.sum()),
                confusion=counts,
                history=training.history.epochs if training else [],
                stopped=stopped,
                seconds=round(time.monotonic() - begun, 1),
                resumed=state is not None,
            )
            write_folder(job.out, learner, module, pictures.names, result.to_json())
            (job.out / STATE).unlink(missing_ok=True)
        found: Finetuned = me.agreed(result if me.first else None)
    return found


def validation_of(job: FinetuneJob, pictures: Pictures, progress: Progress) -> ImageSet | None:
    """The validation images, labelled by the names learnt. Raises InputError where they are not apart."""
    if job.validation is None:
        return None
    names = pictures.names
    found = read_image_set(
        job.validation,
        num_classes=len(names),
        labelled=True,
        limit=None,
        seed=job.seed,
        progress=progress,
        names=names,
    )
    if found.labels is None:
        raise InputError(
            f"cannot measure on {job.validation}",
            "its images have no labels",
            "Give one folder for each class, named as in --train, or a CSV path,label",
        )
    refuse_overlap(pictures.images, found, "training")
    return found


def blocks_kept(job: FinetuneJob, module: nn.Module) -> int | None:
    """How many blocks stay as they are; None: the whole backbone does, and nothing stands beside it."""
    if job.freeze == BACKBONE and not job.lora:
        return None
    count = job.freeze if isinstance(job.freeze, int) else 0
    loop.blocks_of(module, count)  # said before any work
    return count


def class_weights(pictures: Pictures) -> torch.Tensor:
    """What each class counts, [classes]: rare ones more, so that all count alike together."""
    labels = pictures.labels[list(pictures.learnt)]
    counts = torch.bincount(labels, minlength=len(pictures.names)).clamp(min=1).float()
    return counts.sum() / (len(counts) * counts)


def start_classifier(
    learner: Learner,
    pictures: Pictures,
    weights: torch.Tensor,
    job: FinetuneJob,
    me: Team,
    whole: bool,
    progress: Progress,
) -> float:
    """Put the best linear classifier of the features in place; the share of held-out pictures that it gets right.

    Training that starts from it does not spoil the features first (Kumar et al. 2022, arXiv 2202.10054).
    """
    progress.stage("features of the backbone, and the best classifier of them")
    fitted = None
    if me.first:
        learner.module.to(me.device).eval()
        found, labels, held_out = gather(
            Trunk(learner.module, learner.classifier),
            pictures,
            learner.preprocessing,
            me.device,
            seconds=FEATURE_SHARE * 60 * job.minutes if whole else 0.0,
            most_views=MOST_VIEWS if whole else FIRST_VIEWS,
            seed=job.seed,
            progress=progress,
        )
        fitted = fit_classifier(found, labels, held_out, pictures.labels[list(pictures.held_out)], weights)
    weight, bias, right = me.agreed(fitted)
    layer = learner.module.get_submodule(learner.classifier)
    assert isinstance(layer, nn.Linear)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return float(right)


def train(
    training: loop.Training,
    pictures: Pictures,
    preprocessing: Preprocessing,
    job: FinetuneJob,
    key: str,
    progress: Progress,
) -> str:
    """Train on views of the pictures; what ended it."""
    progress.stage("train")
    paths, labels = pictures.images.paths, pictures.labels
    learnt = [paths[row] for row in pictures.learnt]
    kept = [paths[row] for row in pictures.held_out]
    right_labels = labels[list(pictures.held_out)]
    views = Views(preprocessing, strong=True)

    def held_out(module: nn.Module) -> tuple[float, float]:
        outputs = outputs_of(module, kept, preprocessing, training.me.device)
        loss = float(functional.cross_entropy(outputs, right_labels))
        return loss, float((outputs.argmax(1) == right_labels).float().mean())

    return training.train(
        lambda epoch, done: batches(
            learnt,
            labels[list(pictures.learnt)],
            views,
            training.mixup,
            loop.BATCH,
            1000 * job.seed + epoch,
            done,
            (training.me.rank, training.me.size),
        ),
        held_out,
        lambda: checkpoint.save(job.out / STATE, key, training.state()),
        progress,
    )
