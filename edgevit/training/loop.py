"""A recovery in progress: optimizer steps, an average of the weights, and looks at the held-out images."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from edgevit.compression.blocks import outputs_of
from edgevit.metrics.difference import difference
from edgevit.progress import Progress
from edgevit.training import checkpoint as checkpoints
from edgevit.training.augment import at_size, random_views
from edgevit.training.loss import Grids, distillation_loss, mixed_precision, states_and_logits

BATCH = 32
LEARNING_RATE = 1e-4
WARM_UP = 0.1
LEAST = 0.05  # of the full rate, where the warm-up begins
# Steps of which the averaged weights remember about a hundred: single steps are noisy.
AVERAGING = 0.99
# How far to go from the weights given to the averaged ones. With few images training overshoots: a part of the
# way was better than all of it, as for weight-space ensembles (Wortsman et al. 2022).
SHARES = (0.3, 0.6, 1.0)
CHECKS = 12
# The rate is still high for most of the time, and the last checks are the best: patience is long.
PATIENCE = 8
SAVE_EVERY_S = 20.0


@dataclass(frozen=True)
class Images:
    """Pictures to train on and pictures held out, each as the student and as the teacher sees them."""

    train: torch.Tensor
    check_student: torch.Tensor
    check_teacher: torch.Tensor


class Run:
    """A recovery in progress: everything that must survive a kill is in `state()`."""

    def __init__(
        self, student: Any, teacher: Any, images: Images, budget_s: float, device: str, seed: int
    ) -> None:
        self.given, self.budget_s, self.device = student, budget_s, torch.device(device)
        self.images = images
        self.student = copy.deepcopy(student).to(self.device).requires_grad_(True)
        self.teacher = copy.deepcopy(teacher).to(self.device).requires_grad_(False)
        if self.device.type == "cpu":
            plain_attention(self.student)
        self.optimizer = torch.optim.AdamW(
            parameter_groups(self.student), lr=LEARNING_RATE, betas=(0.9, 0.99)
        )
        self.grids = Grids.of(self.student, self.teacher)
        self.generator = torch.Generator().manual_seed(seed)
        self.train_images = images.train.to(self.device)
        with torch.no_grad():
            self.expected = self.outputs(self.teacher, images.check_teacher)
            self.before = difference(self.outputs(self.student, images.check_student), self.expected)
        self.start = weights_of(self.student)
        self.average = {name: tensor.clone() for name, tensor in self.start.items()}
        self.best_kl, self.best = self.before.kl, self.start
        self.steps, self.seconds, self.since_best = 0, 0.0, 0
        self.checks: list[tuple[float, float]] = []

    def outputs(self, model: Any, images: torch.Tensor) -> torch.Tensor:
        return outputs_of(lambda batch: model(batch.to(self.device)).float().cpu(), images)

    def fingerprint(self, settings: str) -> str:
        images = self.images
        tensors = (images.train, images.check_student, images.check_teacher)
        return checkpoints.fingerprint(self.given.state_dict(), tensors, settings)

    def state(self) -> dict[str, Any]:
        """All that a later process needs to go on."""
        return {
            "student": weights_of(self.student),
            "average": self.average,
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
        self.average = state["average"]
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
            progress.advance(*self.told())
            if self.seconds - last_save >= SAVE_EVERY_S:
                save_state()
                last_save = self.seconds
        return "time is up"

    def told(self) -> tuple[int, int, str]:
        """Seconds spent, seconds there are, and a note for the progress display."""
        left = max(0.0, self.budget_s - self.seconds) / 60
        reached = f", KL {self.before.kl:.4f} to {self.best_kl:.4f} on held-out images" if self.checks else ""
        return (
            min(round(self.seconds), round(self.budget_s)),
            round(self.budget_s),
            f"{left:.1f} min left{reached}",
        )

    def look(self) -> None:
        """Go some of the way to the averaged weights, compare on held-out images, and keep the best state."""
        trial = copy.deepcopy(self.student)
        lowest = math.inf
        self.since_best += 1
        for share in SHARES:
            state = between(self.start, self.average, share)
            trial.load_state_dict(state)
            with torch.no_grad():
                kl = difference(self.outputs(trial, self.images.check_student), self.expected).kl
            lowest = min(lowest, kl)
            if kl < self.best_kl:
                self.best_kl, self.best, self.since_best = kl, state, 0
        self.checks.append((self.seconds, lowest))

    def remember(self) -> None:
        """Let the averaged weights follow the student's, quickly at first."""
        keep = min(AVERAGING, (1 + self.steps) / (10 + self.steps))
        for name, tensor in self.student.state_dict().items():
            self.average[name].lerp_(tensor.detach().cpu(), 1 - keep)


def between(
    start: dict[str, torch.Tensor], end: dict[str, torch.Tensor], share: float
) -> dict[str, torch.Tensor]:
    """Weights that are `share` of the way from one state to another."""
    return {name: tensor.lerp(end[name], share) for name, tensor in start.items()}


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


def plain_attention(vit: Any) -> None:
    """Attention as products and a softmax: on CPUs the fused kernel's backward pass is slower than theirs."""
    for block in vit.blocks:
        block.attn.fused_attn = False


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
        found, outputs = states_and_logits(run.student, ours)
    loss = distillation_loss(outputs, targets, found, wanted, run.grids)
    run.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(run.student.parameters(), 1.0)
    run.optimizer.step()
    run.steps += 1
    run.remember()


def learning_rate(progress: float) -> float:
    """Linear warm-up, then a cosine to zero at the end of the time budget (progress 0..1)."""
    return LEARNING_RATE * share_of_rate(progress, least=LEAST)


def share_of_rate(progress: float, *, least: float) -> float:
    """Share of the full rate: a linear warm-up from `least`, then a cosine to a hundredth (progress 0..1)."""
    if progress < WARM_UP:
        return max(least, progress / WARM_UP)
    share = (min(1.0, progress) - WARM_UP) / (1 - WARM_UP)
    return max(0.01, (1 + math.cos(math.pi * share)) / 2)
