"""Distil a changed ViT from the float model it came from: no labels, a time budget, never a worse model."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgevit.errors import InputError
from edgevit.progress import QUIET, Progress
from edgevit.recovery import checkpoint as checkpoints
from edgevit.recovery.loss import TOKENS_WEIGHT, distillation_loss, mixed_precision, states_and_logits
from edgevit.recovery.views import at_size, random_views
from edgevit.surgery.canonical import require_canonical
from edgevit.surgery.steps import Closeness, closeness, logits_of

BATCH = 32
# Four times as much undid the least squares within a minute: held-out KL of a pruned DeiT-Ti 0.08 to 0.22.
LEARNING_RATE = 5e-5
WARM_UP = 0.1
CHECK_SHARE = 0.25
FEWEST_IMAGES = 8
MOST_CHECK_IMAGES = 512
CHECKS = 20
# The rate is still high for most of the time, and the last looks are the best: don't give up early.
PATIENCE = 12
SAVE_EVERY_S = 20.0


@dataclass(frozen=True)
class Recovered:
    """The best model seen, judged on held-out images, and how it came about.

    `module` is the model given when nothing better was found (`improved` is False). `checks` holds
    (training seconds, KL in nats) of every look at the held-out images.
    """

    module: nn.Module
    improved: bool
    before: Closeness
    after: Closeness
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
            return (
                f"{self.steps} steps found nothing better on {self.after.images} held-out images; unchanged"
            )
        return (
            f"{self.steps} steps in {self.seconds / 60:.1f} min on {self.images} images ({self.stopped}); on "
            f"{self.after.images} held-out ones KL {self.before.kl:.3f} to {self.after.kl:.3f}, "
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
    the logits' KL divergence plus the block outputs' relative squared error; a quarter of the images (512 at
    most) is held out, looked at 20 times, and decides which state is returned: the one given if none is
    better. With a `checkpoint` path a killed run continues where it was last saved (every 20 s), and Ctrl-C
    saves before it is passed on. Raises InputError for images that can't be split, models that don't match,
    or a checkpoint of another recovery.
    """
    if not minutes > 0:
        raise InputError(f"cannot recover in {minutes:g} minutes", "there is no time to train", "Use 10")
    images = hold_out(student, teacher, inputs, teacher_inputs, seed)
    run = Run(student, teacher, images, minutes * 60, device, seed)
    settings = f"{minutes} {seed} {BATCH} {LEARNING_RATE} {TOKENS_WEIGHT}"
    key = "" if checkpoint is None else run.fingerprint(settings)
    saved = None if checkpoint is None else checkpoints.load(checkpoint, key)
    if saved is not None:
        run.restore(saved)
    try:
        stopped = run.train(lambda: save(run, checkpoint, key), progress, clock)
    finally:
        save(run, checkpoint, key)
    return run.result(stopped, resumed=saved is not None)


def save(run: Run, path: Path | None, key: str) -> None:
    """Write the run's state, where there is somewhere to write it."""
    if path is not None:
        checkpoints.save(path, key, run.state())


@dataclass(frozen=True)
class Images:
    """Pictures to train on and pictures held out, each as the student and as the teacher sees them."""

    train: torch.Tensor
    check_student: torch.Tensor
    check_teacher: torch.Tensor


def hold_out(
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
    if len(inputs) < FEWEST_IMAGES:
        raise InputError("cannot recover", f"{len(inputs)} images are too few", "Give 64 or more")
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))
    held_out = min(MOST_CHECK_IMAGES, round(len(inputs) * CHECK_SHARE))
    check, train = order[:held_out], order[held_out:]
    # Training views are cut from the larger picture and shown to each at its own size.
    larger = theirs if theirs.shape[-1] >= inputs.shape[-1] else inputs
    return Images(larger[train], inputs[check], theirs[check])


class Run:
    """A recovery in progress: everything that must survive a kill is in `state()`."""

    def __init__(
        self, student: Any, teacher: Any, images: Images, budget_s: float, device: str, seed: int
    ) -> None:
        self.given, self.budget_s, self.device = student, budget_s, torch.device(device)
        self.images = images
        self.student = copy.deepcopy(student).to(self.device).requires_grad_(True)
        self.teacher = copy.deepcopy(teacher).to(self.device).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            parameter_groups(self.student), lr=LEARNING_RATE, betas=(0.9, 0.99)
        )
        self.generator = torch.Generator().manual_seed(seed)
        self.train_images = images.train.to(self.device)
        with torch.no_grad():
            self.expected = self.logits(self.teacher, images.check_teacher)
            self.before = closeness(self.expected, self.logits(self.student, images.check_student))
        self.best_kl, self.best = self.before.kl, weights_of(self.student)
        self.steps, self.seconds, self.since_best = 0, 0.0, 0
        self.checks: list[tuple[float, float]] = []

    def logits(self, model: Any, images: torch.Tensor) -> torch.Tensor:
        return logits_of(lambda batch: model(batch.to(self.device)).float().cpu(), images)

    def fingerprint(self, settings: str) -> str:
        images = self.images
        tensors = (images.train, images.check_student, images.check_teacher)
        return checkpoints.fingerprint(self.given.state_dict(), tensors, settings)

    def state(self) -> dict[str, Any]:
        """All that a later process needs to go on."""
        return {
            "student": weights_of(self.student),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "best": self.best,
            "best_kl": self.best_kl,
            "steps": self.steps,
            "seconds": self.seconds,
            "since_best": self.since_best,
            "checks": self.checks,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state()`."""
        self.student.load_state_dict(state["student"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.best, self.best_kl = state["best"], state["best_kl"]
        self.steps, self.seconds = state["steps"], state["seconds"]
        self.since_best = state["since_best"]
        self.checks = [(seconds, kl) for seconds, kl in state["checks"]]

    def train(self, save_state: Callable[[], None], progress: Progress, clock: Callable[[], float]) -> str:
        """Train until the time is up or nothing improves any more; say which."""
        last_save = self.seconds
        while self.seconds < self.budget_s:
            if self.since_best >= PATIENCE:
                return "nothing improved any more"
            began = clock()
            step(self)
            self.seconds += clock() - began
            if self.seconds >= min(self.budget_s, (len(self.checks) + 1) * self.budget_s / CHECKS):
                began = clock()
                self.look()
                self.seconds += clock() - began
                progress.advance(
                    min(round(self.seconds), round(self.budget_s)),
                    round(self.budget_s),
                    f"KL {self.checks[-1][1]:.4f} on held-out images",
                )
            if self.seconds - last_save >= SAVE_EVERY_S:
                save_state()
                last_save = self.seconds
        return "time is up"

    def look(self) -> None:
        """Compare with the teacher on held-out images and keep the best state."""
        with torch.no_grad():
            kl = closeness(self.expected, self.logits(self.student, self.images.check_student)).kl
        self.checks.append((self.seconds, kl))
        self.since_best += 1
        if kl < self.best_kl:
            self.best_kl, self.best, self.since_best = kl, weights_of(self.student), 0

    def result(self, stopped: str, *, resumed: bool) -> Recovered:
        """The best state as a model on the CPU, or the model given."""
        improved = self.best_kl < self.before.kl
        module, after = self.given, self.before
        if improved:
            module = copy.deepcopy(self.given)
            module.load_state_dict(self.best)
            with torch.no_grad():
                after = closeness(self.expected, logits_of(module, self.images.check_student))
            improved = after.kl < self.before.kl
        if not improved:
            module, after = self.given, self.before
        return Recovered(
            module,
            improved,
            self.before,
            after,
            len(self.images.train),
            self.steps,
            self.seconds,
            stopped,
            resumed,
            tuple(self.checks),
        )


def weights_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Copies of a model's parameters on the CPU."""
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}


def parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Weight decay for matrices only."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.ndim == 2], "weight_decay": 0.01},
        {"params": [p for p in parameters if p.ndim != 2], "weight_decay": 0.0},
    ]


def step(run: Run) -> None:
    """One optimizer step on fresh views."""
    rate = learning_rate(run.seconds / run.budget_s)
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    views = random_views(run.train_images, BATCH, run.generator)
    theirs = at_size(views, tuple(run.teacher.patch_embed.img_size))
    ours = at_size(views, tuple(run.student.patch_embed.img_size))
    with mixed_precision(run.device):
        with torch.no_grad():
            wanted, targets = states_and_logits(run.teacher, theirs)
        found, logits = states_and_logits(run.student, ours)
    loss = distillation_loss(logits, targets, found, wanted)
    run.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(run.student.parameters(), 1.0)
    run.optimizer.step()
    run.steps += 1


def learning_rate(progress: float) -> float:
    """Linear warm-up, then a cosine to zero at the end of the time budget (progress 0..1)."""
    if progress < WARM_UP:
        return LEARNING_RATE * max(0.05, progress / WARM_UP)
    share = (min(1.0, progress) - WARM_UP) / (1 - WARM_UP)
    return LEARNING_RATE * max(0.01, (1 + math.cos(math.pi * share)) / 2)
