"""Why a model is hard for int8, in words: massive activations, and which tensors the error comes from."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from edgevit.metrics.difference import Difference
from edgevit.outputs.output import CLASS_SCORES, Outputs
from edgevit.quantize.activations import BATCH, forward, outputs_of
from edgevit.quantize.fake_quantization import Ranges, quantize_weights, quantizer
from edgevit.quantize.fusion import Fusion
from edgevit.quantize.statistics import Statistics
from edgevit.quantize.tensor_names import BLOCK_TAPS, kind_of

# A token this many times larger than the median token leaves the others about 3 of 256 levels.
MASSIVE = 20.0
SPARSE = 7  # every so many values show the median


@dataclass(frozen=True)
class MassiveActivation:
    """A tensor in which few tokens are so large that one int8 scale can't hold the others beside them.

    `value` is the largest by magnitude, at `channel`; `median` is the median token's largest magnitude,
    `typical` the median magnitude of all values, `share` the part of tokens beyond MASSIVE medians.
    """

    tensor: str
    channel: int
    value: float
    median: float
    typical: float
    share: float

    def to_json(self) -> dict[str, Any]:
        """Plain values for the manifest."""
        return asdict(self)


class Tokens:
    """A tap that keeps every token's largest magnitude in the tensors that blocks write."""

    def __init__(self) -> None:
        self.largest: dict[str, list[torch.Tensor]] = {}
        self.typical: dict[str, list[float]] = {}
        self.peak: dict[str, tuple[float, int]] = {}

    def __call__(self, name: str, value: torch.Tensor, reader: str = "") -> torch.Tensor:
        if not reader and kind_of(name) in ("embed", "proj", "fc2", "residual1", "residual2", "gelu"):
            rows = value.flatten(0, -2)
            magnitude = rows.abs()
            self.largest.setdefault(name, []).append(magnitude.amax(1))
            self.typical.setdefault(name, []).append(float(magnitude.flatten()[::SPARSE].median()))
            where = int(magnitude.argmax())
            peak = float(rows.flatten()[where])
            if abs(peak) > abs(self.peak.get(name, (0.0, 0))[0]):
                self.peak[name] = (peak, where % rows.shape[1])
        return value


@torch.inference_mode()
def massive_activations(vit: Any, images: torch.Tensor) -> list[MassiveActivation]:
    """Tensors with massive tokens, in the order of the model; best asked of a model before its rotation."""
    seen = Tokens()
    for part in torch.split(images, BATCH):
        forward(vit, part, seen)
    found = []
    for name, parts in seen.largest.items():
        tokens = torch.cat(parts)
        median, (value, channel) = float(tokens.median()), seen.peak[name]
        if abs(value) > MASSIVE * median:
            share = float((tokens > MASSIVE * median).double().mean())
            typical = sum(seen.typical[name]) / len(seen.typical[name])
            found.append(MassiveActivation(name, channel, value, median, typical, share))
    return found


def explain(found: list[MassiveActivation]) -> str | None:
    """One sentence on where massive activations begin, or None where there are none."""
    written = [item for item in found if kind_of(item.tensor) in ("fc2", "proj", "embed")] or found
    if not written:
        return None
    first = written[0]
    where = first.tensor if "." not in first.tensor else ""
    if not where:
        _, block, kind = first.tensor.split(".")
        where = f"block {block}'s {kind}"
    share = f"{100 * first.share:.2g} %" if first.share >= 0.001 else "fewer than 0.1 %"
    later = sum(item.tensor != first.tensor and kind_of(item.tensor) != "gelu" for item in found)
    return (
        f"{where} writes {first.value:.0f} into channel {first.channel} for {share} of tokens; int8 can't hold "
        f"that beside a median of {first.typical:.2g}" + (f" (and {later} tensors after it)" if later else "")
    )


@dataclass(frozen=True)
class Sensitivity:
    """What int8 costs when only some tensors are rounded: weights alone, activations alone, by kind, by tensor.

    `kinds` are measured; `tensors` estimated from rounding errors and gradients, KL in nats per image.
    """

    weights_only: Difference
    activations_only: Difference
    kinds: dict[str, Difference]
    tensors: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Plain values for the manifest."""
        return asdict(self)


def sensitivity(
    vit: Any,
    images: torch.Tensor,
    ranges: Ranges,
    statistics: Statistics,
    fusion: Fusion,
    *,
    by_kind: bool = True,
    outputs: Outputs = CLASS_SCORES,
) -> Sensitivity:
    """Measure each kind of tensor rounded alone, on normalised images; one pass over them per kind."""
    reference = outputs_of(vit, images)
    kinds = ["input", "patch", "embed", *(kind for kind in BLOCK_TAPS if kind not in ("proj", "fc1", "fc2"))]
    alone = {
        kind: {name: span for name, span in ranges.items() if kind_of(name) == kind}
        for kind in (kinds if by_kind else ())
    }
    return Sensitivity(
        weights_only=outputs.difference(outputs_of(quantize_weights(vit), images), reference),
        activations_only=outputs.difference(outputs_of(vit, images, quantizer(ranges, fusion)), reference),
        kinds={
            kind: outputs.difference(outputs_of(vit, images, quantizer(only, fusion)), reference)
            for kind, only in alone.items()
        },
        tensors={name: statistics[name].effect(span) for name, span in ranges.items()},
    )
