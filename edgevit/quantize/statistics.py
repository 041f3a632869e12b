"""What calibration images show of each tensor: random rows, extremes per image, gradients."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from edgevit.outputs.output import CLASS_SCORES, Outputs
from edgevit.progress import QUIET, Progress
from edgevit.quantize.activations import BATCH, forward
from edgevit.quantize.observers import TensorStatistics
from edgevit.quantize.tensor_names import STREAM_TAPS, kind_of

VALUES = 120_000  # kept of each tensor: enough for a range
STREAM_VALUES = 400_000  # of the residual stream, whose rare tokens decide its rotation
GRADIENT_IMAGES = 32  # of which gradients are taken: three times the work of an image without
GRADIENT_BATCH = 4  # every tensor of a batch is held, with its gradient: gigabytes for a ViT-B

Statistics = dict[str, TensorStatistics]


def as_rows(name: str, value: torch.Tensor) -> torch.Tensor:
    """[n·tokens, channels]; heads side by side, an image by pixels, attention weights by query."""
    kind = kind_of(name)
    if kind in ("q", "k", "v"):
        value = value.transpose(1, 2).flatten(2)
    elif kind == "input":
        value = value.movedim(1, -1)
    return value.flatten(0, -2)


class Collector:
    """A tap that keeps the tensors of one batch and, when it is done, random rows of them with gradients."""

    def __init__(self, images: int, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.images = images
        self.batch: dict[str, torch.Tensor] = {}
        self.parts: dict[str, list[TensorStatistics]] = {}

    def __call__(self, name: str, value: torch.Tensor, reader: str = "") -> torch.Tensor:
        if reader:
            return value
        if not value.requires_grad:
            value = value.detach().requires_grad_(True)
        value.retain_grad()
        self.batch[name] = value
        return value

    def finish_batch(self) -> None:
        """Draw rows of every tensor and let the batch go."""
        for name, value in self.batch.items():
            gradient = as_rows(name, torch.zeros_like(value) if value.grad is None else value.grad)
            rows, ends = as_rows(name, value.detach()), value.detach().flatten(1)
            kept = STREAM_VALUES if kind_of(name) in STREAM_TAPS else VALUES
            count = max(1, kept * len(value) // (self.images * rows.shape[1]))
            drawn = torch.randperm(len(rows), generator=self.generator)[:count]
            part = TensorStatistics(
                rows[drawn], gradient[drawn], ends.amin(1), ends.amax(1), len(rows) // len(value)
            )
            self.parts.setdefault(name, []).append(part)
        self.batch = {}


def collect(
    vit: Any,
    images: torch.Tensor,
    *,
    seed: int,
    outputs: Outputs = CLASS_SCORES,
    progress: Progress = QUIET,
) -> Statistics:
    """Statistics of every tap of a `prepared` ViT on normalised images [n, channels, H, W].

    Rows and gradients come from the first GRADIENT_IMAGES, extremes from all.
    """
    first, rest = images[:GRADIENT_IMAGES], images[GRADIENT_IMAGES:]
    collector = Collector(len(first), seed)
    for done, part in enumerate(torch.split(first, GRADIENT_BATCH)):
        with torch.enable_grad():
            score = outputs.sampled(forward(vit, part, collector), collector.generator)
            score.backward()  # type: ignore[no-untyped-call]
        collector.finish_batch()
        progress.advance(min(len(images), (done + 1) * GRADIENT_BATCH), len(images), "calibration statistics")
    statistics = {name: joined(parts) for name, parts in collector.parts.items()}
    return joined_extremes(statistics, extremes(vit, rest)) if len(rest) else statistics


def joined(parts: list[TensorStatistics]) -> TensorStatistics:
    """One observed of all batches."""
    rows, gradient, low, high = (
        torch.cat([getattr(part, key) for part in parts]) for key in ("rows", "gradient", "low", "high")
    )
    return TensorStatistics(rows, gradient, low, high, parts[0].per_image)


def joined_extremes(statistics: Statistics, more: dict[str, torch.Tensor]) -> Statistics:
    """Statistics that know the extremes of more images, [2, n] per tensor."""
    return {
        name: replace(
            observed,
            low=torch.cat([observed.low, more[name][0]]),
            high=torch.cat([observed.high, more[name][1]]),
        )
        for name, observed in statistics.items()
    }


@torch.inference_mode()
def extremes(vit: Any, images: torch.Tensor, batch: int = BATCH) -> dict[str, torch.Tensor]:
    """The smallest and largest value of every tap in every image: [2, n] each."""
    found: dict[str, list[torch.Tensor]] = {}

    def tap(name: str, value: torch.Tensor, reader: str = "") -> torch.Tensor:
        if reader:
            return value
        rows = value.flatten(1)
        ends = torch.stack([rows.amin(1), rows.amax(1)])  # 25 times as fast as aminmax by rows
        found.setdefault(name, []).append(ends)
        return value

    for part in torch.split(images, batch):
        forward(vit, part, tap)
    return {name: torch.cat(parts, dim=1) for name, parts in found.items()}
