"""What calibration images show of a graph's tensors: extremes, random values and gradients."""

from __future__ import annotations

from collections.abc import Collection

import torch

from edgevit.export.graph_in_torch import Graph
from edgevit.export.operands import Tensor
from edgevit.outputs.output import CLASS_SCORES, Outputs
from edgevit.progress import QUIET, Progress
from edgevit.quantize.observers import TensorStatistics

Ends = dict[str, tuple[Tensor, Tensor]]
VALUES = 60_000  # kept of each tensor
GRADIENT_IMAGES = 24
BATCH = 4


def extremes(graph: Graph, names: Collection[str], images: Tensor, progress: Progress = QUIET) -> Ends:
    """The smallest and largest value of each tensor in every image [n, channels, height, width]: [n] each."""
    wanted, found = frozenset(names), list[dict[str, tuple[Tensor, Tensor]]]()

    def ends(image: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        seen: dict[str, tuple[Tensor, Tensor]] = {}

        def tap(name: str, value: Tensor) -> Tensor:
            if name in wanted:
                seen[name] = (value.amin(), value.amax())
            return value

        graph.run(image, tap)
        return seen

    done = 0
    for part in torch.split(images, BATCH):
        with torch.inference_mode():
            found.append(torch.func.vmap(ends)(part))
        done += len(part)
        progress.advance(done, len(images), "extremes of every tensor")
    return {name: (joined(found, name, 0), joined(found, name, 1)) for name in found[0]}


def joined(parts: list[dict[str, tuple[Tensor, Tensor]]], name: str, end: int) -> Tensor:
    """One end of a tensor in every image."""
    return torch.cat([part[name][end] for part in parts])


def collect(
    graph: Graph,
    names: Collection[str],
    images: Tensor,
    ends: Ends,
    *,
    seed: int,
    outputs: Outputs = CLASS_SCORES,
    progress: Progress = QUIET,
) -> dict[str, TensorStatistics]:
    """Random values of each tensor and the gradients of what `outputs` sample (log p(y) of class scores).

    From the first GRADIENT_IMAGES of `images`; `ends` are of all.
    """
    generator = torch.Generator().manual_seed(seed)
    first = images[:GRADIENT_IMAGES]
    values: dict[str, list[Tensor]] = {name: [] for name in names}
    slopes: dict[str, list[Tensor]] = {name: [] for name in names}
    sizes: dict[str, int] = {}
    for done, part in enumerate(torch.split(first, BATCH)):
        found, shifts, given = with_gradients(graph, names, part)
        loss = outputs.sampled(given, generator)
        gradients = torch.autograd.grad(loss, [shifts[name] for name in found], allow_unused=True)
        for name, gradient in zip(found, gradients, strict=True):
            flat = found[name].detach().flatten()
            slope = torch.zeros_like(flat) if gradient is None else gradient.flatten()
            sizes[name] = flat.numel() // len(part)
            count = max(1, VALUES * len(part) // len(first))
            chosen = torch.randint(len(flat), (min(count, len(flat)),), generator=generator)
            values[name].append(flat[chosen])
            slopes[name].append(slope[chosen])
        progress.advance(min(len(first), (done + 1) * BATCH), len(first), "gradients of every tensor")
    return {
        name: TensorStatistics(
            torch.cat(values[name])[:, None], torch.cat(slopes[name])[:, None], *ends[name], sizes[name]
        )
        for name in names
        if name in sizes
    }


def with_gradients(
    graph: Graph, names: Collection[str], images: Tensor
) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
    """Each tensor of a batch, what was added to it (zeros, for gradients), and the outputs."""
    with torch.no_grad():
        found = graph.tensors(images, names)
    shifts = {name: torch.zeros_like(value).requires_grad_() for name, value in found.items()}

    def shifted(image: Tensor, added: dict[str, Tensor]) -> Tensor:
        return graph.run(image, lambda name, value: value + added[name] if name in added else value)

    outputs: Tensor = torch.func.vmap(shifted)(images, shifts)
    return found, shifts, outputs
