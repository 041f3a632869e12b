"""The layers of a compiled model as data: which processor runs each, at which estimated cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

Shape = tuple[int, ...]
# Rows that stand for the model's own input and output, not for work.
BORDER_OPS = frozenset({"InputOperator", "OutputOperator"})
NO_REASON = "the compiler leaves it to the CPU, and the board profile doesn't say why"


@dataclass(frozen=True)
class Layer:
    """One row of the compiler's table.

    Cycles are NPU clock cycles by the vendor's own estimate: memory, arithmetic, and the larger of both. The
    compiler prices everything but convolutions and matrix products at zero. `traffic_kb` is what is read and
    written. `inputs_complete` is False where the compiler cut the list of input shapes short.
    """

    index: int
    op: str
    dtype: str
    target: str
    inputs: tuple[Shape, ...]
    inputs_complete: bool
    outputs: tuple[Shape, ...]
    cycles_ddr: int
    cycles_npu: int
    cycles_total: int
    traffic_kb: int
    name: str

    @property
    def on_cpu(self) -> bool:
        """Whether this is work that left the NPU."""
        return self.target != "NPU" and self.op not in BORDER_OPS


@dataclass(frozen=True)
class CpuOp:
    """Layers of one type that leave the NPU: how many, what they move, why, and what to try."""

    op: str
    count: int
    traffic_kb: int
    reason: str


@dataclass(frozen=True)
class Placement:
    """All layers of a compiled model, with the memory the compiler plans for activations and weights."""

    layers: tuple[Layer, ...]
    internal_bytes: int
    weight_bytes: int

    @property
    def cycles(self) -> int:
        """The vendor compiler's estimate for one image on one core, in NPU cycles."""
        return sum(layer.cycles_total for layer in self.layers)

    @property
    def traffic_kb(self) -> int:
        """What all layers read and write for one image."""
        return sum(layer.traffic_kb for layer in self.layers)

    @property
    def cpu_layers(self) -> tuple[Layer, ...]:
        """Layers that left the NPU; the model's input and output don't count."""
        return tuple(layer for layer in self.layers if layer.on_cpu)

    def cpu_ops(self, reasons: Mapping[str, str]) -> tuple[CpuOp, ...]:
        """Op types that left the NPU, most frequent first; `reasons` is the board profile's `npu.cpu_ops`."""
        counts = Counter(layer.op for layer in self.cpu_layers)
        moved: Counter[str] = Counter()
        for layer in self.cpu_layers:
            moved[layer.op] += layer.traffic_kb
        return tuple(
            CpuOp(op, count, moved[op], reasons.get(op, NO_REASON)) for op, count in counts.most_common()
        )

    def costliest(self, count: int) -> tuple[Layer, ...]:
        """The `count` layers with most estimated cycles, then most traffic."""
        return tuple(
            sorted(self.layers, key=lambda row: (-row.cycles_total, -row.traffic_kb, row.index))[:count]
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values for a manifest, totals included for its readers."""
        totals = {"cycles": self.cycles, "traffic_kb": self.traffic_kb, "cpu_layers": len(self.cpu_layers)}
        return asdict(self) | totals

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Placement:
        """The inverse of `to_json`."""
        return cls(
            tuple(_layer(row) for row in values["layers"]),
            values["internal_bytes"],
            values["weight_bytes"],
        )


def _layer(row: Mapping[str, Any]) -> Layer:
    shapes = {key: tuple(tuple(shape) for shape in row[key]) for key in ("inputs", "outputs")}
    return Layer(**{**row, **shapes})
