"""Which exact changes make a model fit int8, found by trying them on images they were not fitted on.

Every candidate is a model with the same outputs in float. It is calibrated on one half of the calibration
images and evaluated on the other half, by several errors against the float model, and kept only if it is better
than what there was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch

from edgevit.metrics.difference import Difference
from edgevit.outputs.output import CLASS_SCORES, Outputs
from edgevit.quantize import equalization
from edgevit.quantize.activations import outputs_of
from edgevit.quantize.fake_quantization import int8_outputs
from edgevit.quantize.fusion import Fusion
from edgevit.quantize.observers import Range
from edgevit.quantize.rotation import (
    Matrix,
    centre_stream,
    learned_rotation,
    random_rotation,
    rotate,
    structured_rotation,
    why_not_rotated,
)
from edgevit.quantize.statistics import Statistics, collect, extremes
from edgevit.quantize.tensor_names import STREAM_TAPS, kind_of
from edgevit.quantize.value_shift import shift_values

from edgevit.progress import QUIET, Progress  # isort: skip

# Images of a half of those used, one half to fit, one to evaluate: as many as so many multiply-accumulates allow.
LOOK, FEWEST, MOST = 3e11, 8, 64
SCREENED = 16  # rotations of each sort whose stream widths are compared before any is tried on images
TRIED = 2
SHIFT_IMAGES = 32
Candidate = tuple[str, str, Any]
Kinds = frozenset[str]


@dataclass(frozen=True)
class Transform:
    """One change: what it was, the errors without and with it on held-out images, whether it was kept."""

    name: str
    what: str
    kept: bool
    before: Difference
    after: Difference

    def to_json(self) -> dict[str, Any]:
        """Plain values for the manifest."""
        return asdict(self)


def images_of_a_half(multiplications: float, available: int) -> int:
    """How many images candidates are fitted on, and how many others they are evaluated on.

    `multiplications` are a model's for one image: a large one is looked at on fewer.
    """
    return int(min(MOST, available // 2, max(FEWEST, LOOK // max(1.0, multiplications))))


def for_ranges(fitted: int) -> int:
    """How many of the images to fit on give ranges, by which candidates are only compared with each other."""
    return max(FEWEST, fitted // 2)


def multiplications_of(vit: Any) -> int:
    """Of the linear layers in a ViT's blocks, for one image."""
    tokens = vit.patch_embed.num_patches + vit.num_prefix_tokens
    layers = [each for each in vit.blocks.modules() if isinstance(each, torch.nn.Linear)]
    return int(tokens * sum(each.weight.numel() for each in layers))


class Evaluator:
    """Calibrates a candidate on one half of the images and scores it on the other."""

    def __init__(self, vit: Any, images: torch.Tensor, fusion: Fusion, outputs: Outputs) -> None:
        self.fusion, self.outputs = fusion, outputs
        half = images_of_a_half(multiplications_of(vit), len(images))
        self.fit, self.held_out = images[:half], images[half : 2 * half]
        self.reference = outputs_of(vit, self.held_out)

    def __call__(self, vit: Any, kinds: Kinds | None = None) -> Difference:
        """Errors with everything int8, or only these kinds of tensors.

        Rounding errors of other tensors are as good as random from one candidate to the next: where a
        candidate changes few kinds of tensors, those alone show whether it helps.
        """
        ranges = full_ranges(extremes(vit, self.fit[: for_ranges(len(self.fit))]))
        rounded = {name: span for name, span in ranges.items() if kinds is None or kind_of(name) in kinds}
        return self.outputs.difference(int8_outputs(vit, self.held_out, rounded, self.fusion), self.reference)


def full_ranges(ends: dict[str, torch.Tensor]) -> dict[str, Range]:
    """The range each tensor needs for all images seen."""
    return {name: (float(low.min()), float(high.max())) for name, (low, high) in ends.items()}


def condition(
    vit: Any,
    images: torch.Tensor,
    fusion: Fusion,
    *,
    seed: int,
    outputs: Outputs = CLASS_SCORES,
    progress: Progress = QUIET,
) -> tuple[Any, list[Transform]]:
    """The best version of a `prepared` ViT found, and every step with its gain.

    `images` [n, channels, H, W] are normalised calibration images; the first of them are used.
    """
    evaluate = Evaluator(vit, images, fusion, outputs)
    statistics: Statistics | None = None
    current, steps = vit, []
    known: dict[Kinds, Difference] = {}
    for number, (kinds, make) in enumerate(TRANSFORMS):
        progress.advance(number, len(TRANSFORMS), "conditioning")
        if statistics is None:
            statistics = collect(current, evaluate.fit, seed=seed, outputs=outputs, progress=progress)
        if kinds not in known:
            known = {kinds: evaluate(current, kinds)}
        before, tried = known[kinds], []
        for name, what, candidate in make(current, statistics, seed, evaluate.fit):
            after = evaluate(candidate, kinds)
            tried.append(
                (Transform(name, what, after.error_score < before.error_score, before, after), candidate)
            )
        if tried:
            step, candidate = min(tried, key=lambda pair: pair[0].after.error_score)
            steps.append(step)
            if step.kept:
                current, known = candidate, {kinds: step.after}
                if kinds == ATTENTION:  # the next one reads what this one changed
                    statistics = None
    return current, steps


def rotations(vit: Any, statistics: Statistics, seed: int, images: torch.Tensor) -> Iterator[Candidate]:
    """The rotations with the narrowest streams of a few dozen, and one learned from the narrowest."""
    if why_not_rotated(vit) is not None:
        return
    streams = [
        (observed.rows, observed.importance)
        for name, observed in statistics.items()
        if kind_of(name) in (*STREAM_TAPS, "patch")
    ]
    for what, rotation in promising_rotations(streams, vit.embed_dim, seed):
        yield "rotation", what, rotate(vit, rotation)


def promising_rotations(
    streams: list[tuple[torch.Tensor, float]], dim: int, seed: int
) -> list[tuple[str, Matrix]]:
    """The rotations worth trying, with what they are: those of a few dozen that leave the narrowest streams, and
    first one learned from the best of them.

    `streams` are (rows [n, dim], importance) of each tensor.
    """
    makers = {"structured": structured_rotation, "random": random_rotation}
    drawn = [
        (f"{kind} rotation, seed {seed + number}", make(dim, seed + number))
        for kind, make in makers.items()
        for number in range(SCREENED)
    ]
    drawn.sort(key=lambda pair: stream_effect(streams, pair[1]))
    learned = learned_rotation(drawn[0][1], streams)
    return [(f"learned from {drawn[0][0]}", learned), *drawn[: TRIED - 1]]


def stream_effect(streams: list[tuple[torch.Tensor, float]], rotation: Matrix) -> float:
    """The KL divergence (nats per image) that rounding the turned stream would cause, by its widths."""
    turn, total = torch.from_numpy(rotation).float(), 0.0
    for rows, importance in streams:
        low, high = (rows @ turn).aminmax()
        total += importance * (float(high - low) / 255) ** 2 / 12
    return total


def single(name: str, what: str, move: Callable[..., Any]) -> Callable[..., Iterator[Candidate]]:
    """A step with one candidate."""

    def make(vit: Any, statistics: Statistics, seed: int, images: torch.Tensor) -> Iterator[Candidate]:
        yield name, what, move(vit, statistics)

    return make


def centred(vit: Any, statistics: Statistics, seed: int, images: torch.Tensor) -> Iterator[Candidate]:
    """The stream without its mean over channels, where LayerNorm is all that reads it."""
    if why_not_rotated(vit) is None:
        yield "centre-stream", "no mean over channels in the residual stream", centre_stream(vit)


def shifted(vit: Any, statistics: Statistics, seed: int, images: torch.Tensor) -> Iterator[Candidate]:
    """Constants moved out of the values: their mean, or what an int8 softmax loses least with."""
    yield "shift-values", "value means moved into proj's bias", equalization.centre_values(vit, statistics)
    ranges = {name: observed.full for name, observed in statistics.items()}
    fitted = shift_values(vit, images[:SHIFT_IMAGES], ranges)
    yield "shift-values", "values shifted against int8 attention weights, proj undoes it", fitted


STREAM: Kinds = frozenset({"patch", "norm1", "norm2", "norm", *STREAM_TAPS})
ATTENTION: Kinds = frozenset({"q", "k", "v", "scores", "softmax", "attention"})

# In the order in which they are tried, with the tensors that tell. What happens inside the attention does not
# change with the stream's rotation: statistics taken before it serve until one of the attention's own
# transforms is kept.
TRANSFORMS: tuple[tuple[Kinds, Callable[..., Iterator[Candidate]]], ...] = (
    (STREAM, rotations),
    (STREAM, centred),
    (ATTENTION, shifted),
    (ATTENTION, single("centre-keys", "key means dropped, softmax ignores them", equalization.centre_keys)),
    (
        ATTENTION,
        single(
            "equalise-values", "channels of v made equally wide, proj undoes it", equalization.equalise_values
        ),
    ),
    (
        ATTENTION,
        single("equalise-queries", "channels of q and k made equally wide", equalization.equalise_queries),
    ),
)
