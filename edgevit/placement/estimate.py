"""Latency of a compiled model on one NPU core, labelled `edgevit estimate`.

The vendor's compiler counts cycles for convolutions and matrix products and prices everything else at zero.
The time of a model is the sum over its layers of five terms, each linear in one fitted cost:

- arithmetic and memory cycles as the compiler counts them;
- a launch for every layer that does work;
- bytes moved outside a convolution's own stream: what elementwise layers and copies read and write, what an
  activation table writes, and weights streamed again for each slice of an input that exceeds the on-chip buffer;
- elements normalised, and attention scores, at the width of the board's multipliers.

A layer that left the NPU costs `CPU_FACTOR` times what it would cost there, and a hand-over: an assumption, not
a fit. `benchmarks/latency` fits the costs on twelve published latencies (Rockchip's model zoo) and on single layers
that others measured on an RK3588; its README lists the errors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from functools import lru_cache
from math import ceil, exp, log, prod
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgevit.errors import InputError
from edgevit.placement.layers import BORDER_OPS, Layer, Placement
from edgevit.targets.profiles import Board

LABEL = "edgevit estimate"
FITTED: Path = Path(__file__).with_name("fitted.json")
LATENCY_TERMS = ("convolutions", "norms", "attention", "elementwise", "launches", "cpu")

# What a convolution keeps of its input on the chip, in one core; layers measured on an RK3588 slow down past it.
BUFFER_BYTES = 256 * 1024
# An attention score costs about one and a half times an element of a norm: measured in three models.
ELEMENTS_PER_SCORE = 1.5
# The core that single layers were measured on: its clock, int8 multiply-accumulates per cycle, clock of the memory.
REFERENCE_HZ = 1_000_000_000
REFERENCE_WIDTH = 1024
REFERENCE_DDR_HZ = 2_112_000_000
CPU_FACTOR = 3.0
CPU_HANDOVER_MS = 0.05
CPU_SPREAD = 3.0
NORMS = ("exNorm", "exLayerNorm", "exRMSNorm")
SOFTMAX = ("exSoftmax13", "Softmax")
# Only rename dimensions when they stay on the NPU: 0 to 1 microseconds measured.
FREE_ON_NPU = ("Reshape",)

Vector = npt.NDArray[np.float64]
Cost = tuple[float, ...]  # of a graph or plan; lower is better, item by item


@dataclass(frozen=True)
class Chip:
    """A board against the reference: clock of the NPU, width of a core, clock of the memory (1 if not known)."""

    clock: float
    width: float
    ddr: float


@dataclass(frozen=True)
class Costs:
    """What the fit decides: milliseconds of each unit of a layer's work (see `work`)."""

    arithmetic: float
    memory: float
    launch: float
    megabyte: float
    element: float


@dataclass(frozen=True)
class Estimate:
    """One image, on one core of an NPU or `where` else, in milliseconds. `low_ms` to `high_ms` would hold 11 of
    13 models, if they resemble the twelve published ones: a rough interval, from few figures.

    `parts` sums to `latency_ms`.
    """

    latency_ms: float
    low_ms: float
    high_ms: float
    parts: dict[str, float]
    label: str = LABEL
    where: str = "one core"


@dataclass(frozen=True)
class Fitted:
    """What `benchmarks/latency/fit.py` found: costs, boards they were fitted on, errors of models left out.

    A spread is a factor, either way, that all but one of the errors stay within: `spread` of the published models,
    estimated without them or without that model on any board; `spread_other_boards` without that board;
    `spread_layers` of single layers, estimated without all layers of their model.
    """

    costs: Costs
    boards: tuple[str, ...]
    spread: float
    spread_other_boards: float
    spread_layers: float


def estimate(placement: Placement, board: Board) -> Estimate:
    """Latency of `placement` on one core of `board`.

    The interval is wider for boards without published figures. Raises InputError for a board whose profile lacks
    what the estimate needs: an NPU with its clock and width.
    """
    chip, found = capabilities(board), fitted()
    parts = dict.fromkeys(LATENCY_TERMS, 0.0)
    for layer in placement.layers:
        for part, ms in times(layer, chip, found.costs).items():
            parts[part] += ms
    latency = sum(parts.values())
    spread = interval(parts, latency, board.id in found.boards)
    return Estimate(latency, latency / spread, latency * spread, parts)


def cost_of(placement: Placement, board: Board) -> Cost:
    """Milliseconds of the estimate; where there is none for the board, layers off the NPU, then cycles."""
    try:
        return (estimate(placement, board).latency_ms,)
    except InputError:
        return (float(len(placement.cpu_layers)), float(placement.cycles))


def interval(parts: Mapping[str, float], latency: float, board_published: bool) -> float:
    """The factor either way: each part's, weighted by its share.

    Published models are mostly convolutions; they say little of what the compiler doesn't price, which single
    layers do, and nothing of the CPU.
    """
    found = fitted()
    priced = found.spread if board_published else max(found.spread, found.spread_other_boards)
    unpriced = max(priced, found.spread_layers)
    spreads = {"convolutions": priced, "launches": priced, "cpu": CPU_SPREAD}
    shares = {part: ms / latency for part, ms in parts.items()} if latency else {}
    return exp(sum(share * log(spreads.get(part, unpriced)) for part, share in shares.items()))


@lru_cache
def fitted() -> Fitted:
    """What was fitted last."""
    values = json.loads(FITTED.read_text(encoding="utf-8"))
    return Fitted(**{**values, "costs": Costs(**values["costs"]), "boards": tuple(values["boards"])})


def capabilities(board: Board) -> Chip:
    """What the estimate needs of a board. Raises InputError where its profile lacks it."""
    npu = board.npu
    width = (npu.macs_per_cycle_int8 or 2 * (npu.macs_per_cycle_float or 0)) if npu else 0
    if npu is None or not npu.clock_hz or not width:
        raise InputError(
            f"cannot estimate the latency on {board.name}",
            "its profile gives no NPU clock or no multiply-accumulates per cycle",
            "Measure on the board, or add npu.clock_hz and npu.macs_per_cycle_int8 to the profile",
        )
    ddr = board.clocks.get("ddr")
    ddr_hz = (ddr.pin or 0) * (1000 if ddr.unit == "kHz" else 1) if ddr else 0
    return Chip(
        npu.clock_hz / REFERENCE_HZ, width / REFERENCE_WIDTH, ddr_hz / REFERENCE_DDR_HZ if ddr_hz else 1.0
    )


def times(layer: Layer, chip: Chip, costs: Costs) -> dict[str, float]:
    """Milliseconds of a layer by part."""
    if layer.op in BORDER_OPS:
        return {}
    spent = work(layer, chip) * np.array(astuple(costs))
    if layer.on_cpu:
        return {"cpu": CPU_FACTOR * float(spent.sum()) + CPU_HANDOVER_MS}
    launch = float(spent[2])
    return {"launches": launch, part_of(layer): float(spent.sum()) - launch}


def part_of(layer: Layer) -> str:
    """The part that a layer's work is reported under."""
    if layer.op in NORMS:
        return "norms"
    if layer.op == "exSDPAttention" or layer.op == "exMatMul" or layer.op in SOFTMAX:
        return "attention"
    return "convolutions" if is_convolution(layer.op) else "elementwise"


def is_convolution(op: str) -> bool:
    """Whether an op is a convolution with whatever is fused into it: Conv, ConvAdd, ConvExGelu, ConvTranspose."""
    return "Conv" in op and "Convert" not in op


def work(layer: Layer, chip: Chip) -> Vector:
    """A layer's work in the units of `Costs`, [5].

    Milliseconds of arithmetic and of memory cycles, launches, megabytes outside the stream, millions of elements.
    The compiler's memory model knows no memory clock: two platforms whose memories differ get equal cycles.
    """
    if layer.op in FREE_ON_NPU and not layer.on_cpu:
        return np.zeros(5)
    outputs = prod(layer.outputs[0]) if layer.outputs else 0
    megabytes = elements = 0.0
    if layer.op in NORMS:
        elements = outputs
    elif layer.op == "exSDPAttention":
        elements = scores(layer) * ELEMENTS_PER_SCORE
    elif layer.op in SOFTMAX:
        elements = outputs * ELEMENTS_PER_SCORE
    elif is_convolution(layer.op):
        megabytes = beside_the_stream(layer, outputs) / 1e6
    elif layer.op != "exMatMul":
        megabytes = layer.traffic_kb * 1024 / 1e6
    arithmetic = float(layer.cycles_npu)
    if layer.op == "exMatMul" and not arithmetic:  # priced at zero on some platforms
        size = 1 if layer.dtype == "INT8" else 2
        arithmetic = outputs * layer.inputs[0][1] * size / (chip.width * REFERENCE_WIDTH)
    return np.array(
        [
            arithmetic / 1e6 / chip.clock,
            layer.cycles_ddr / 1e6 / chip.clock / chip.ddr,
            1,
            megabytes / chip.ddr,
            elements / 1e6 / chip.width / chip.clock,
        ]
    )


def scores(layer: Layer) -> int:
    """Attention scores: heads x queries x keys, of tensors [heads, channels, 1, tokens]."""
    queries, *others = layer.inputs
    keys = others[0] if others else queries
    return queries[0] * queries[-1] * keys[-1]


def beside_the_stream(layer: Layer, outputs: int) -> float:
    """Bytes of a convolution that the compiler's count leaves out.

    Its weights are read once for every slice of the input that fits on the chip, and an activation table passes
    over the outputs.
    """
    size = 1 if layer.dtype == "INT8" else 2
    extra = outputs * size * 1.5 if "ExGelu" in layer.op or "ExSwish" in layer.op else 0.0
    if len(layer.inputs) > 1:
        batch, *image = layer.inputs[0]
        again = batch * (ceil(prod(image) * size / BUFFER_BYTES) - 1)
        extra += again * prod(layer.inputs[1]) * size
    return extra
