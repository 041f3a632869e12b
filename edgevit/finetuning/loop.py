"""Training: AdamW, slower for earlier layers, warm-up and cosine, mixed pictures, early stopping; resumable."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from edgevit import torch_setup  # noqa: F401
from edgevit.errors import InputError
from edgevit.finetuning.pictures import Batch
from edgevit.finetuning.teacher import SHARE, distance
from edgevit.finetuning.team import Team
from edgevit.progress import Progress
from edgevit.training.loop import share_of_rate, weights_of
from edgevit.training.loss import mixed_precision

from timm.data.mixup import Mixup  # isort: skip
from timm.optim._param_groups import param_groups_layer_decay  # isort: skip

Tensor = torch.Tensor
BATCH = 32
RATE, DECAY, LAYER_DECAY = 5e-4, 0.05, 0.75
ADAPTERS_RATE = 4.0  # times RATE: they start from nothing, and what they stand beside stays
LEAST = 0.02  # of the full rate, where the warm-up begins
SMOOTHING = 0.1
MIXUP, CUTMIX, MIXED = 0.2, 1.0, 0.5
PATIENCE = 6  # epochs without a better held-out loss
SAVE_EVERY_S = 30.0


@dataclass
class History:
    """One row an epoch: training loss, held-out loss, share of held-out labels right, rate, seconds so far."""

    epochs: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = -1

    @property
    def best_loss(self) -> float:
        """The lowest held-out loss so far."""
        return self.epochs[self.best_epoch]["held_out_loss"] if self.best_epoch >= 0 else math.inf

    def stale(self) -> bool:
        """Whether nothing has improved for PATIENCE epochs."""
        return len(self.epochs) - 1 - self.best_epoch >= PATIENCE


Batches = Callable[[int, int], Iterator[Batch]]


class Training:
    """A model being trained; everything that must survive a kill is in `state()`."""

    def __init__(
        self,
        module: nn.Module,
        classes: int,
        class_weights: Tensor,
        *,
        frozen: Sequence[nn.Module],
        groups: list[dict[str, Any]],
        steps: int,
        epochs: int,
        seconds: float,
        me: Team,
        teacher: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.module, self.me, self.teacher = module.to(me.device), me, teacher
        self.steps_an_epoch, self.epochs, self.seconds = steps, epochs, seconds
        self.frozen = frozen
        self.called, self.optimizer = me.together(self.module, torch.optim.AdamW(groups, lr=RATE))
        self.scales = [group.get("lr_scale", 1.0) for group in self.optimizer.param_groups]
        self.class_weights = class_weights.to(me.device)
        self.mixup = Mixup(  # type: ignore[no-untyped-call]
            mixup_alpha=MIXUP,
            cutmix_alpha=CUTMIX,
            prob=MIXED,
            label_smoothing=SMOOTHING,
            num_classes=classes,
        )
        self.history, self.step, self.spent = History(), 0, 0.0
        self.best = weights_of(self.module)

    def state(self) -> dict[str, Any]:
        """All that a later process needs to go on."""
        return {
            "module": weights_of(self.module),
            "optimizer": self.optimizer.state_dict(),
            "history": self.history.epochs,
            "best_epoch": self.history.best_epoch,
            "best": self.best,
            "step": self.step,
            "spent": self.spent,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state()`."""
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.history = History(list(state["history"]), state["best_epoch"])
        self.best, self.step, self.spent = state["best"], state["step"], state["spent"]

    def train(
        self,
        batches: Batches,
        held_out: Callable[[nn.Module], tuple[float, float]],
        save: Callable[[], None],
        progress: Progress,
    ) -> str:
        """Train until the epochs or the time are over, or nothing improves any more; say which."""
        saved = begun = time.monotonic()
        before = self.spent
        while len(self.history.epochs) < self.epochs:
            epoch, losses = len(self.history.epochs), list[float]()
            done = self.step - epoch * self.steps_an_epoch
            for batch in batches(epoch, done):  # those before were learnt from before a kill
                losses.append(self.learn(*batch))
                self.step += 1
                self.spent = self.me.agreed(before + time.monotonic() - begun)
                progress.advance(self.step, self.expected_steps(), self.told(losses))
                if self.me.first and time.monotonic() - saved > SAVE_EVERY_S:
                    save()
                    saved = time.monotonic()
                if self.spent > self.seconds:
                    break
            self.look(held_out, losses)
            if self.me.first:
                save()
            if self.spent > self.seconds:
                return "time is up"
            if self.history.stale():
                return "nothing improved any more"
        return "all epochs done"

    def learn(self, views: Tensor, targets: Tensor, labels: Tensor) -> float:
        """One optimizer step on mixed views [n, channels, height, width]; returns the loss.

        `targets` [n, classes] are what each view shows, `labels` [n] the class that it counts for.
        """
        rate = RATE * share_of_rate(self.progress(), least=LEAST)
        for group, scale in zip(self.optimizer.param_groups, self.scales, strict=True):
            group["lr"] = rate * scale
        self.module.train()
        for part in self.frozen:
            part.eval()
        device = self.me.device
        counts, targets, views = self.class_weights[labels.to(device)], targets.to(device), views.to(device)
        with mixed_precision(device):
            outputs = self.called(views)
            wanted = None if self.teacher is None else self.teacher(views)
        outputs = outputs.float()
        each = -(targets * outputs.log_softmax(-1)).sum(-1)
        if wanted is not None:
            each = (1 - SHARE) * each + SHARE * distance(outputs, wanted)
        # Gradients are averaged over the processes: what is left is the mean over all that they learn from.
        loss = (each * counts).sum() * self.me.size / self.me.total(counts.sum())
        if not torch.isfinite(loss):
            raise InputError(
                "cannot go on training",
                "the loss is not finite any more",
                "Use --freeze backbone, or report it",
            )
        self.optimizer.zero_grad(set_to_none=True)
        self.me.backward(loss)
        nn.utils.clip_grad_norm_([each for each in self.module.parameters() if each.requires_grad], 1.0)
        self.optimizer.step()
        return float(self.me.total(loss.detach())) / self.me.size

    def look(self, held_out: Callable[[nn.Module], tuple[float, float]], losses: list[float]) -> None:
        """Measure on held-out pictures, and keep the best weights."""
        begun = time.monotonic()
        self.module.eval()
        loss, right = self.me.agreed(held_out(self.module) if self.me.first else None)
        self.spent = self.me.agreed(self.spent + time.monotonic() - begun)
        row = {
            "loss": sum(losses) / max(1, len(losses)),
            "held_out_loss": loss,
            "held_out_right": right,
            "rate": self.optimizer.param_groups[-1]["lr"],
            "seconds": round(self.spent, 1),
        }
        better = loss < self.history.best_loss
        self.history.epochs.append(row)
        if better:
            self.history.best_epoch, self.best = len(self.history.epochs) - 1, weights_of(self.module)

    def progress(self) -> float:
        """How far training is, 0 to 1: by steps or by time, whichever is further."""
        return min(1.0, max(self.step / (self.epochs * self.steps_an_epoch), self.spent / self.seconds))

    def expected_steps(self) -> int:
        """Steps until the end, as far as can be told from the time that steps take."""
        by_epochs = self.epochs * self.steps_an_epoch
        if not self.spent:
            return by_epochs
        return max(self.step, min(by_epochs, round(self.step * self.seconds / self.spent)))

    def told(self, losses: list[float]) -> str:
        """A note for the progress display."""
        recent = losses[-20:]
        held = self.history.epochs[-1]["held_out_right"] if self.history.epochs else None
        right = f", {100 * held:.1f} % of held-out pictures right" if held is not None else ""
        return f"epoch {len(self.history.epochs) + 1}, loss {sum(recent) / len(recent):.3f}{right}"


def partly_frozen(module: nn.Module, kept: int) -> dict[str, Any]:
    """For Training: all learns, earlier layers more slowly, but for the first `kept` blocks and all before them."""
    module.requires_grad_(True)
    frozen = freeze(module, kept)
    return {"frozen": frozen, "groups": param_groups_layer_decay(module, DECAY, layer_decay=LAYER_DECAY)}


def adapted(module: nn.Module) -> dict[str, Any]:
    """For Training: adapters and classifier, which learn already, at one rate; statistics stay as they are."""
    learning = [each for each in module.parameters() if each.requires_grad]
    frozen = [each for each in module.modules() if isinstance(each, nn.modules.batchnorm._BatchNorm)]
    return {
        "frozen": frozen,
        "groups": [{"params": learning, "lr_scale": ADAPTERS_RATE, "weight_decay": 0.0}],
    }


def freeze(module: nn.Module, count: int) -> list[nn.Module]:
    """Keep the first `count` blocks, and all that comes before them, as they are; returns what is kept.

    Raises InputError where there are fewer.
    """
    if not count:
        return []
    blocks = blocks_of(module, count)
    inside = {id(each) for part in blocks for each in part.parameters()}
    first = min(number for number, each in enumerate(module.parameters()) if id(each) in inside)
    for number, each in enumerate(module.parameters()):
        if number < first:
            each.requires_grad_(False)
    for part in blocks[:count]:
        part.requires_grad_(False)
    return blocks[:count]


def blocks_of(module: nn.Module, count: int) -> list[nn.Module]:
    """A model's blocks, the longest list of submodules. Raises InputError where they are fewer than `count`."""
    lists = [
        list(each)
        for each in module.modules()
        if isinstance(each, nn.Sequential | nn.ModuleList) and len(each) > 1
    ]
    blocks = max(lists, key=len, default=[])
    if count > len(blocks):
        raise InputError(
            f"--freeze {count} can't be used",
            f"the model has {len(blocks)} blocks",
            f"Use backbone, none, or a number up to {len(blocks)}",
        )
    return blocks
