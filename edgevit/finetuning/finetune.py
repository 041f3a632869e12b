"""Fine-tuning from a model's name to a folder that can be converted."""

from __future__ import annotations

import time
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
from edgevit.finetuning.features import fit_classifier, gather
from edgevit.finetuning.folder import write_folder
from edgevit.finetuning.job import BACKBONE, NONE, FinetuneJob
from edgevit.finetuning.measure import confusion, outputs_of, some_of
from edgevit.finetuning.pictures import Pictures, Views, batches, read_pictures, readable
from edgevit.images import ImageSet, read_image_set, refuse_overlap
from edgevit.models import LoadedModel, load_model
from edgevit.models.classifier import Trunk, classifier_of, with_classes
from edgevit.models.given_preprocessing import with_preprocessing
from edgevit.models.timm_folder import builder_of
from edgevit.models.timm_models import is_known
from edgevit.progress import Progress
from edgevit.run.folder import open_run
from edgevit.training import checkpoint

STATE = ".training.pt"
# Of the time there is, what a frozen backbone's features may take; training has views of its own.
FEATURE_SHARE = 0.8
MOST_VIEWS, FIRST_VIEWS = 6, 1
TORCHVISION = {
    "vit_b_16": "vit_base_patch16_224",
    "vit_b_32": "vit_base_patch32_224",
    "vit_l_16": "vit_large_patch16_224",
    "vit_l_32": "vit_large_patch32_224",
}


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

    A fine-tuning that was killed goes on where it was, with the same model, pictures and settings.
    """
    begun = time.monotonic()
    with open_run(job.out):
        progress.stage("read pictures")
        pictures = read_pictures(job.train, job.seed, progress)
        validation = validation_of(job, pictures, progress)
        progress.stage("load model")
        loaded = with_preprocessing(
            load_model(job.model, job.weights, size=job.preprocessing.size), job.preprocessing
        )
        built_from = rebuilt_by(job.model, loaded)
        path = classifier_of(loaded.name, loaded.module, loaded.preprocessing)
        pictures = readable(pictures, loaded.preprocessing, progress)
        module = with_classes(loaded.module, path, len(pictures.names))
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        frozen = blocks_kept(job, module)
        key = checkpoint.fingerprint(
            loaded.module.state_dict(),
            (),
            repr((job.settings(), loaded.preprocessing, pictures.images.digests)),
        )
        state = checkpoint.load(job.out / STATE, key)
        weights = class_weights(pictures)
        if state is None:
            whole = job.freeze == BACKBONE
            held_right = start_classifier(
                module, path, pictures, loaded, weights, job, device, whole, progress
            )
        training: loop.Training | None = None
        stopped = "the backbone was frozen: the best classifier was computed"
        if frozen is not None:
            training = loop.Training(
                module,
                frozen,
                len(pictures.names),
                weights,
                steps=-(-len(pictures.learnt) // loop.BATCH),
                epochs=job.epochs,
                seconds=60 * job.minutes,
                device=device,
            )
            if state is not None:
                training.restore(state)
            else:
                training.spent = time.monotonic() - begun
            stopped = train(training, pictures, loaded, job, key, progress)
            module = training.module
            module.load_state_dict(training.best)
            held_right = training.history.epochs[training.history.best_epoch]["held_out_right"]
        module = module.cpu().eval().requires_grad_(False)
        progress.stage("measure")
        images = validation or some_of(pictures.images, pictures.held_out)
        counts = confusion(module, images, len(pictures.names), loaded.preprocessing, progress)
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
        write_folder(
            job.out, built_from, path, module, loaded.preprocessing, pictures.names, result.to_json()
        )
        (job.out / STATE).unlink(missing_ok=True)
    return result


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


def rebuilt_by(name: str, loaded: LoadedModel) -> str:
    """What builds the module again without its weights: a timm name or file.py:function. Raises InputError."""
    if ".py:" in name:
        return name
    built_by = builder_of(Path(name))
    if built_by is not None:
        return built_by
    plain_name = name.removeprefix("torchvision:")
    if name.startswith("torchvision:") and plain_name in TORCHVISION and loaded.canonical:
        return TORCHVISION[plain_name]
    if is_known(name) and not Path(name).is_dir():
        return name.partition(".")[0]
    raise InputError(
        f"cannot fine-tune {name}",
        "its structure can't be built again without it",
        "Start from a timm name (with --weights), torchvision:vit_b_16, or file.py:function",
    )


def blocks_kept(job: FinetuneJob, module: nn.Module) -> int | None:
    """How many blocks stay as they are; None: the whole backbone does."""
    if job.freeze == BACKBONE:
        return None
    count = 0 if job.freeze == NONE else int(job.freeze)
    loop.blocks_of(module, count)  # said before any work
    return count


def class_weights(pictures: Pictures) -> torch.Tensor:
    """What each class counts, [classes]: rare ones more, so that all count alike together."""
    labels = pictures.labels[list(pictures.learnt)]
    counts = torch.bincount(labels, minlength=len(pictures.names)).clamp(min=1).float()
    return counts.sum() / (len(counts) * counts)


def start_classifier(
    module: nn.Module,
    path: str,
    pictures: Pictures,
    loaded: LoadedModel,
    weights: torch.Tensor,
    job: FinetuneJob,
    device: torch.device,
    whole: bool,
    progress: Progress,
) -> float:
    """Put the best linear classifier of the features in place; the share of held-out pictures that it gets right.

    Training that starts from it does not spoil the features first (Kumar et al. 2022, arXiv 2202.10054).
    """
    progress.stage("features of the backbone, and the best classifier of them")
    module.to(device).eval()
    found, labels, held_out = gather(
        Trunk(module, path),
        pictures,
        loaded.preprocessing,
        device,
        seconds=FEATURE_SHARE * 60 * job.minutes if whole else 0.0,
        most_views=MOST_VIEWS if whole else FIRST_VIEWS,
        seed=job.seed,
        progress=progress,
    )
    weight, bias, right = fit_classifier(
        found, labels, held_out, pictures.labels[list(pictures.held_out)], weights
    )
    layer = module.get_submodule(path)
    assert isinstance(layer, nn.Linear)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return right


def train(
    training: loop.Training,
    pictures: Pictures,
    loaded: LoadedModel,
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
    views = Views(loaded.preprocessing, strong=True)

    def held_out(module: nn.Module) -> tuple[float, float]:
        outputs = outputs_of(module, kept, loaded.preprocessing, training.device)
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
        ),
        held_out,
        lambda: checkpoint.save(job.out / STATE, key, training.state()),
        progress,
    )
