"""Int8 in float arithmetic: what an NPU with int8 tensors computes, rounded where it rounds.

Where that is depends on what the compiler fuses (`Fusion`). A 16-bit tensor that an int8 operation reads is rounded
to int8 for it.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import nn

from edgevit.quantize.activations import Tap, outputs_of
from edgevit.quantize.fusion import Fusion, rounded_when_read
from edgevit.quantize.tensor_names import OUTPUT_TAP

Ranges = Mapping[str, tuple[float, float]]


def scale_and_zero_point(low: float, high: float) -> tuple[float, int]:
    """Scale and zero point (-128..127) of an int8 range, widened to hold 0."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max((high - low) / 255, 1e-12)
    return scale, round(-128 - low / scale)


def fake_quantize(value: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """`value` rounded to the 256 levels of [low, high], clipped to it."""
    scale, zero = scale_and_zero_point(low, high)
    # Torch's own kernel makes a mask for gradients beside it, and takes six times as long.
    inside = value.clamp((-128 - zero) * scale, (127 - zero) * scale)
    return inside.mul_(1 / scale).round_().mul_(scale)


def quantizer(ranges: Ranges, fusion: Fusion, sixteen_bit: Collection[str] = ()) -> Tap:
    """A tap that rounds to int8 wherever a plan does; tensors without a range pass unchanged."""
    kept = frozenset(sixteen_bit)

    def tap(name: str, value: torch.Tensor, reader: str = "") -> torch.Tensor:
        rounds = rounded_when_read(name, reader, kept) if reader else fusion.rounded_when_made(name, kept)
        span = ranges.get(name) if rounds else None
        return value if span is None else fake_quantize(value, *span)

    return tap


@torch.no_grad()
def quantize_weights(vit: Any, sixteen_bit: Collection[str] = ()) -> Any:
    """A copy with weights rounded to int8, asymmetric, per output channel, except of 16-bit operations."""
    rounded = copy.deepcopy(vit)
    for name, layer in rounded.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d) and tap_of_layer(name) not in sixteen_bit:
            layer.weight.copy_(rounded_rows(layer.weight.flatten(1)).view_as(layer.weight))
    return rounded


def tap_of_layer(name: str) -> str:
    """The tap a layer's output goes to; q stands for the three of qkv."""
    if name.startswith("patch_embed"):
        return "patch"
    if name.startswith("head"):
        return OUTPUT_TAP
    block, kind = ".".join(name.split(".")[:2]), name.rsplit(".", 1)[-1]
    return f"{block}.{'q' if kind == 'qkv' else kind}"


def rounded_rows(rows: torch.Tensor) -> torch.Tensor:
    """Each row of [outputs, inputs] rounded to 256 levels of its own range."""
    low, high = rows.amin(1).clamp(max=0), rows.amax(1).clamp(min=0)
    scale = ((high - low) / 255).clamp(min=1e-12)
    zero = (-128 - low / scale).round().to(torch.int32)
    return torch.fake_quantize_per_channel_affine(rows, scale, zero, 0, -128, 127)


def int8_outputs(
    vit: Any, images: torch.Tensor, ranges: Ranges, fusion: Fusion, sixteen_bit: Collection[str] = ()
) -> torch.Tensor:
    """Outputs [n, classes] of a `prepared` ViT realised with a plan's ranges and 16-bit tensors."""
    return outputs_of(quantize_weights(vit, sixteen_bit), images, quantizer(ranges, fusion, sixteen_bit))
