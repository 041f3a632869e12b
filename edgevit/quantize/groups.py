"""What can be moved to 16 bits together, what that costs, and what error it should remove.

A group is a few neighbouring operations: moving one alone would only add conversions. Costs are cycles of the
compiler's own model where it prices an operation (convolutions, by shape and number type) and the memory
traffic at the same model's bytes per cycle where the compiler says zero (additions, norms, conversions).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from edgevit.quantize.fusion import Fusion, rounded_when_read
from edgevit.quantize.tensor_names import OUTPUT_TAP, kind_of, sibling, tap_names
from edgevit.targets.profiles import Npu

# Boards that were measured take about twice the compiler's cycles for convolutions (placement/estimate), so a
# cycle of plain traffic beside them is worth half of one of the compiler's.
TRAFFIC_WEIGHT = 0.5


@dataclass(frozen=True)
class PrecisionGroup:
    """Tensors that go to 16 bits together; `description` says what they are."""

    name: str
    description: str
    tensors: frozenset[str]

    def possible(self, never: Collection[str]) -> bool:
        """Whether no tensor of it is of these kinds."""
        return not any(kind_of(name) in never for name in self.tensors)


def groups_of(blocks: int) -> list[PrecisionGroup]:
    """Every group of a ViT with so many blocks, the finest first."""
    found = [
        PrecisionGroup("embed", "the embedded tokens", frozenset({"embed", norm_after("embed", blocks)}))
    ]
    for index in range(blocks):
        prefix = f"blocks.{index}."

        def tensors(*names: str, prefix: str = prefix) -> frozenset[str]:
            return frozenset(prefix + name for name in names)

        stream = tensors("residual1", "norm2", "residual2") | {norm_after(f"{prefix}residual2", blocks)}
        mlp, attention = tensors("gelu", "fc2"), tensors("attention")
        projected = stream | tensors("attention", "proj")
        found += [
            PrecisionGroup(
                f"stream.{index}", f"block {index}'s residual additions and the norms after them", stream
            ),
            PrecisionGroup(f"attention.{index}", f"block {index}'s attention product", attention),
            PrecisionGroup(
                f"proj.{index}", f"block {index}'s attention product, proj and residual additions", projected
            ),
            PrecisionGroup(
                f"mixing.{index}",
                f"block {index}'s whole attention and residual additions",
                projected | tensors("norm1", "q", "k", "v"),
            ),
            PrecisionGroup(f"mlp.{index}", f"block {index}'s GELU and fc2", mlp),
            PrecisionGroup(
                f"mlp-stream.{index}", f"block {index}'s GELU, fc2 and residual additions", stream | mlp
            ),
            PrecisionGroup(
                f"mlp-whole.{index}",
                f"block {index}'s fc1, GELU, fc2 and residual additions",
                stream | mlp | tensors("fc1"),
            ),
        ]
    found.append(PrecisionGroup("patch", "the patch embedding", frozenset({"patch"})))
    return [*found, PrecisionGroup("head", "the classifier", frozenset({"norm", OUTPUT_TAP}))]


def norm_after(stream: str, blocks: int) -> str:
    """The norm that reads a tensor of the stream first."""
    if stream == "embed":
        return "blocks.0.norm1"
    index = int(stream.split(".")[1]) + 1
    return "norm" if index == blocks else f"blocks.{index}.norm1"


def edges(blocks: int) -> list[tuple[str, str]]:
    """(tensor, reader) wherever a tensor is read by an operation that may have another number type."""
    found, stream = [], "embed"
    for index in range(blocks):
        p = f"blocks.{index}."
        found += [(stream, p + "norm1"), (stream, p + "residual1"), (p + "norm1", p + "q")]
        found += [(p + name, p + "attention") for name in "qkv"]
        found += [(p + "attention", p + "proj"), (p + "residual1", p + "norm2"), (p + "norm2", p + "fc1")]
        found += [(p + "fc1", p + "gelu"), (p + "gelu", p + "fc2"), (p + "residual1", p + "residual2")]
        found += [(p + "fc2", p + "residual2")]
        stream = p + "residual2"
    return [*found, (stream, "norm")]


class Errors:
    """The error of a plan, as the sum of what rounding each tensor alone would cause."""

    def __init__(self, effects: Mapping[str, float], blocks: int, fusion: Fusion) -> None:
        self.effects, self.blocks, self.fusion = effects, blocks, fusion
        self.edges, self.names = edges(blocks), tap_names(blocks)

    def __call__(self, sixteen_bit: Collection[str]) -> float:
        """KL in nats per image. A tensor of the stream has two readers; each counts for half of it."""
        total = sum(
            self.effects.get(name, 0.0)
            for name in self.names
            if self.fusion.rounded_when_made(name, sixteen_bit)
        )
        for name, reader in self.edges:
            if rounded_when_read(name, reader, sixteen_bit):
                half = 0.5 if kind_of(name) in ("embed", "residual1", "residual2") else 1.0
                total += half * self.effects.get(name, 0.0)
        return total


@dataclass(frozen=True)
class Shape:
    """What costs depend on: tokens and queries of each block, widths."""

    dim: int
    hidden: int
    heads: int
    tokens: int
    queries: tuple[int, ...]
    stem_macs: int = 0  # of the patch embedding's last convolution, rounded up as the NPU computes them

    @property
    def blocks(self) -> int:
        return len(self.queries)


def shape_of(vit: Any, npu: Npu) -> Shape:
    """The sizes of a `prepared` ViT, its patch embedding's work as an NPU computes it."""
    tokens = int(vit.patch_embed.num_patches) + int(vit.num_prefix_tokens)
    padding = int(getattr(vit.patch_drop, "count", 0))
    queries = [getattr(block, "queries", None) or tokens + padding for block in vit.blocks]
    block = vit.blocks[0]
    return Shape(
        dim=vit.embed_dim,
        hidden=block.mlp.fc1.out_features,
        heads=block.attn.num_heads,
        tokens=tokens + padding,
        queries=tuple(queries),
        stem_macs=stem_macs(vit.patch_embed, npu),
    )


class Costs:
    """Extra cycles of a plan over everything int8."""

    def __init__(self, shape: Shape, npu: Npu, fusion: Fusion) -> None:
        self.shape, self.npu, self.fusion = shape, npu, fusion
        self.bytes_per_cycle = npu.ddr_bytes_per_cycle or math.inf  # not known: not counted

    def __call__(self, sixteen_bit: Collection[str]) -> float:
        """Cycles: convolutions in 16 bits, other operations' wider tensors, conversions at the borders."""
        moved = sum(self.traffic(name, sixteen_bit) for name in sixteen_bit)
        for name, reader in edges(self.shape.blocks):
            if (name in sixteen_bit) != (computed_in_16(reader, sixteen_bit)):
                moved += 3 * self.elements(name)  # one type read, the other written
        return self.compiler(sixteen_bit) + TRAFFIC_WEIGHT * moved / self.bytes_per_cycle

    def compiler(self, sixteen_bit: Collection[str]) -> float:
        """The share that the vendor's compiler counts: convolutions alone."""
        return sum(self.convolution(name) for name in sixteen_bit)

    def traffic(self, name: str, sixteen_bit: Collection[str]) -> float:
        """Extra bytes moved to make one tensor in 16 bits; a convolution's are in the compiler's count."""
        kind = kind_of(name)
        if self.convolution(name):
            return 0.0
        reads = {"attention": 4, "residual1": 3, "residual2": 3, "embed": 3}.get(kind, 2)
        apart = 0.0
        for part, operation in self.fusion.into.items():
            if operation == kind and sibling(name, part) not in sixteen_bit:
                apart = self.elements(sibling(name, part))  # an int8 result is stored that was not before
        return reads * self.elements(name) + apart

    def convolution(self, name: str) -> float:
        """Extra cycles of a convolution in 16 bits, 0 for another operation."""
        shape, kind = self.shape, kind_of(name)
        inputs_outputs = {
            "q": (shape.dim, 3 * shape.dim),
            "proj": (shape.dim, shape.dim),
            "fc1": (shape.dim, shape.hidden),
            "fc2": (shape.hidden, shape.dim),
        }
        if kind in inputs_outputs:
            inputs, outputs = inputs_outputs[kind]
            macs = self.npu.macs_of(self.tokens(name), inputs, outputs)
        else:
            macs = shape.stem_macs if kind == "patch" else 0
        eight = self.npu.macs_per_cycle_int8 or 2 * (self.npu.macs_per_cycle_float or 1)
        sixteen = self.npu.macs_per_cycle_float or eight / 2  # int16 likewise, measured on RV1106
        return macs / sixteen - macs / eight

    def tokens(self, name: str) -> int:
        """Rows of a tensor."""
        kind, block = kind_of(name), name.split(".")
        few = kind in ("q", "attention", "proj", "residual1", "norm2", "fc1", "gelu", "fc2", "residual2")
        if kind in ("norm", "logits"):
            return 1
        return self.shape.queries[int(block[1])] if few and len(block) > 2 else self.shape.tokens

    def elements(self, name: str) -> int:
        """Values of a tensor of one image."""
        kind = kind_of(name)
        if kind in self.fusion.inside:
            return self.tokens(sibling(name, "q")) * self.shape.tokens * self.shape.heads
        return self.tokens(name) * (self.shape.hidden if kind in ("fc1", "gelu") else self.shape.dim)


def stem_macs(stem: Any, npu: Npu) -> int:
    """Of a patch embedding's last convolution: those before it only gather pixels, exactly, in int8 too."""
    convolution = [layer for layer in stem.modules() if isinstance(layer, nn.Conv2d)][-1]
    (grid_height, grid_width), (height, width) = stem.grid_size, convolution.kernel_size
    channels = convolution.in_channels, convolution.out_channels
    return height * width * npu.macs_of(grid_height * grid_width, *channels)


def computed_in_16(reader: str, sixteen_bit: Collection[str]) -> bool:
    """Whether an operation computes in 16 bits."""
    return reader in sixteen_bit
