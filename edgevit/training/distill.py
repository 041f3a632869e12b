"""Distil a changed ViT from the float model it came from: no labels, a time budget, never a worse model."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgevit.compression.blocks import outputs_of
from edgevit.compression.calibration_split import hold_out
from edgevit.errors import InputError
from edgevit.metrics.difference import Difference, difference
from edgevit.progress import QUIET, Progress
from edgevit.rewrites.canonical import require_canonical
from edgevit.training import checkpoint as checkpoints
from edgevit.training.loop import AVERAGING, BATCH, CHECKS, LEARNING_RATE, SHARES, Images, Run
from edgevit.training.loss import TOKENS_WEIGHT

MIN_IMAGES = 8
MAX_CHECK_IMAGES = 512


@dataclass(frozen=True)
class Recovered:
    """The best model seen, judged on held-out images, and how it came about.

    `module` is the model given when nothing better was found (`improved` is False). `checks` holds
    (training seconds, KL in nats) of every look at the held-out images.
    """

    module: nn.Module
    improved: bool
    before: Difference
    after: Difference
    images: int
    steps: int
    seconds: float
    stopped: str
    resumed: bool
    checks: tuple[tuple[float, float], ...]

    @property
    def what(self) -> str:
        """One line for the report."""
        if not self.improved:
            return f"{self.steps} steps found nothing better on {self.after.n} held-out images; unchanged"
        return (
            f"{self.steps} steps in {self.seconds / 60:.1f} min on {self.images} images ({self.stopped}); on "
            f"{self.after.n} held-out ones KL {self.before.kl:.3f} to {self.after.kl:.3f}, "
            f"agreement {100 * self.before.agreement:.1f} to {100 * self.after.agreement:.1f} %"
        )


def recover(
    student: nn.Module,
    teacher: nn.Module,
    inputs: torch.Tensor,
    *,
    minutes: float,
    teacher_inputs: torch.Tensor | None = None,
    checkpoint: Path | None = None,
    device: str = "cpu",
    seed: int = 0,
    progress: Progress = QUIET,
    clock: Callable[[], float] = time.monotonic,
) -> Recovered:
    """Train a copy of `student` for at most `minutes` to predict what `teacher` does, on any unlabelled images.

    `inputs` [n, C, H, W] are normalised by the student's preprocessing, `teacher_inputs` are the same pictures
    by the teacher's (left out: the same). Both must be canonical ViTs of the same depth and width. The loss is
    the outputs' KL divergence plus the block outputs' relative squared error; a quarter of the images (512 at
    most) is held out and looked at 12 times. What is returned is the best seen there of points on the way from
    the weights given to a running average of the trained ones; the model given if none is better. With a
    `checkpoint` path a killed run continues where it was last saved (every 20 s), and Ctrl-C saves before it is
    passed on. The same seed repeats itself only as far as the clock does: the budget is time. Raises InputError
    for images that can't be split, models that don't match, or a checkpoint of another recovery.
    """
    if not minutes > 0:
        raise InputError(f"cannot recover in {minutes:g} minutes", "there is no time to train", "Use 10")
    images = checked_images(student, teacher, inputs, teacher_inputs, seed)
    run = Run(student, teacher, images, minutes * 60, device, seed)
    settings = repr((minutes, seed, BATCH, LEARNING_RATE, TOKENS_WEIGHT, AVERAGING, SHARES, CHECKS))
    key = "" if checkpoint is None else run.fingerprint(settings)
    saved = None if checkpoint is None else checkpoints.load(checkpoint, key)
    if saved is not None:
        run.restore(saved)
    try:
        stopped = run.train(lambda: save(run, checkpoint, key), progress, clock)
    finally:
        save(run, checkpoint, key)
    return result_of(run, stopped, resumed=saved is not None)


def save(run: Run, path: Path | None, key: str) -> None:
    """Write the run's state, where there is somewhere to write it."""
    if path is not None:
        checkpoints.save(path, key, run.state())


def checked_images(
    student: Any, teacher: Any, inputs: torch.Tensor, teacher_inputs: torch.Tensor | None, seed: int
) -> Images:
    """Check that the models fit together and split the images. Raises InputError."""
    require_canonical(student, "recovery")
    require_canonical(teacher, "recovery")
    theirs = inputs if teacher_inputs is None else teacher_inputs
    ours, other = (len(student.blocks), student.embed_dim), (len(teacher.blocks), teacher.embed_dim)
    if ours != other:
        raise InputError(
            "cannot recover",
            f"the student has {ours[0]} blocks of width {ours[1]}, its teacher {other[0]} of {other[1]}",
            "Give the model it was made from",
        )
    if len(inputs) != len(theirs):
        raise InputError(
            "cannot recover",
            f"{len(inputs)} images for the student and {len(theirs)} for its teacher",
            "Give both the same pictures",
        )
    if len(inputs) < MIN_IMAGES:
        raise InputError("cannot recover", f"{len(inputs)} images are too few", "Give 64 or more")
    train, check = hold_out(len(inputs), seed=seed, most=MAX_CHECK_IMAGES)
    # Training views are cut from the larger picture and shown to each at its own size.
    larger = theirs if theirs.shape[-1] >= inputs.shape[-1] else inputs
    return Images(larger[train], inputs[check], theirs[check])


def result_of(run: Run, stopped: str, *, resumed: bool) -> Recovered:
    """The best state as a model on the CPU, or the model given."""
    improved = run.best_kl < run.before.kl
    module, after = run.given, run.before
    if improved:
        module = copy.deepcopy(run.given)
        module.load_state_dict(run.best)
        with torch.no_grad():
            after = difference(outputs_of(module, run.images.check_student), run.expected)
        improved = after.kl < run.before.kl
    if not improved:
        module, after = run.given, run.before
    return Recovered(
        module,
        improved,
        run.before,
        after,
        len(run.images.train),
        run.steps,
        run.seconds,
        stopped,
        resumed,
        tuple(run.checks),
    )
