"""Latencies that others published, and the fit of the estimate's costs to them.

`published.json.gz` holds twelve latencies of Rockchip's model zoo (three models on four platforms) with the layer
tables that rknn-toolkit2 2.5.0 prints for the same architectures with random weights, exported plainly, and 22
single layers of three transformers measured on an RK3588. Each names its source. Two of these transformers, whole,
are for checking only: their layers are fitted, their latencies are not.
`python benchmarks/latency/fit.py` prints the tables of the README, fits again and writes the costs that
`edgevit.placement.estimate` reads.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, astuple, dataclass
from functools import lru_cache
from math import exp, log
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from edgevit.files import write_atomically
from edgevit.placement.estimate import (
    CPU_FACTOR,
    CPU_HANDOVER_MS,
    FITTED,
    Costs,
    Fitted,
    Vector,
    capabilities,
    work,
)
from edgevit.placement.layers import BORDER_OPS, Layer
from edgevit.targets.profiles import load_board

PUBLISHED = Path(__file__).with_name("published.json.gz")
# No faster than the compiler's arithmetic, launches of 2 to 100 microseconds.
LIMITS = ((1.0, 0.1, 0.002, 0.05, 1.0), (2.5, 2.0, 0.1, 1.0, 6.0))
LAYER_WEIGHT = 0.4  # 22 layers of one chip together count about as much as 12 models on four


@dataclass(frozen=True)
class Point:
    """A published latency in milliseconds with the layers the compiler makes of the same architecture."""

    model: str
    board: str
    precision: str
    ms: float
    source: str
    layers: tuple[Layer, ...]


@dataclass(frozen=True)
class Error:
    """How far one published point is from its estimate, as a factor minus 1, fitted without some points."""

    model: str
    board: str
    ms: float
    without_point: float
    without_model: float
    without_board: float


@lru_cache
def published() -> tuple[tuple[Point, ...], tuple[Point, ...]]:
    """(whole models, single layers) that others measured."""
    values = json.loads(gzip.decompress(PUBLISHED.read_bytes()))
    models, layers = (tuple(point(each) for each in values[kind]) for kind in ("models", "layers"))
    return models, layers


def encoders() -> tuple[Point, ...]:
    """Whole transformers that were measured on one core, with their layers; no fit sees these latencies."""
    return tuple(point(each) for each in json.loads(gzip.decompress(PUBLISHED.read_bytes()))["encoders"])


def encoders_left_out() -> tuple[float, ...]:
    """Every whole transformer's error against a fit without its own layers."""
    models, layers = published()
    return tuple(
        error(each, fit(models, [other for other in layers if other.source != each.source]))
        for each in encoders()
    )


def point(values: dict[str, Any]) -> Point:
    """One point from JSON; a layer is [op, type, target, inputs, outputs, DDR, NPU and total cycles, KB]."""
    layers = []
    for index, (op, dtype, target, inputs, outputs, ddr, npu, total, traffic) in enumerate(values["layers"]):
        shapes = [tuple(tuple(shape) for shape in tensors) for tensors in (inputs, outputs)]
        layers.append(
            Layer(index, op, dtype, target, shapes[0], True, shapes[1], ddr, npu, total, traffic, "")
        )
    return Point(**{**values, "layers": tuple(layers)})


def matrix(points: Iterable[Point]) -> Vector:
    """[points, 6]: work of each point on its board in the units of `Costs`, and milliseconds of hand-over."""
    rows = []
    for each in points:
        chip = capabilities(load_board(each.board))
        row = np.zeros(6)
        for layer in each.layers:
            if layer.op not in BORDER_OPS:
                row[:5] += work(layer, chip) * (CPU_FACTOR if layer.on_cpu else 1)
                row[5] += CPU_HANDOVER_MS * layer.on_cpu
        rows.append(row)
    return np.array(rows)


def fit(models: Sequence[Point], layers: Sequence[Point]) -> Costs:
    """Costs with the least squared log error over models and layers, within `LIMITS`."""
    from scipy.optimize import least_squares

    rows = matrix([*models, *layers])
    measured = np.log([each.ms for each in (*models, *layers)])
    weights = np.array([1.0] * len(models) + [LAYER_WEIGHT] * len(layers))

    def residuals(logs: Vector) -> Vector:
        return np.asarray(weights * (np.log(rows[:, :5] @ np.exp(logs) + rows[:, 5]) - measured))

    low, high = np.log(LIMITS)
    solution = least_squares(residuals, (low + high) / 2, bounds=(low, high))
    return Costs(*(float(value) for value in np.exp(solution.x)))


def error(each: Point, costs: Costs) -> float:
    """Estimate over measurement, less 1."""
    (row,) = matrix([each])
    return float(row[:5] @ np.array(astuple(costs)) + row[5]) / each.ms - 1


def leave_one_out() -> tuple[Error, ...]:
    """Every published model against fits without it, without its model on any board, and without its board.

    Single layers stay in the fit, except where their board is left out.
    """
    models, layers = published()
    table = []
    for each in models:
        model = [other for other in models if other.model != each.model]
        board = [other for other in models if other.board != each.board]
        there = [other for other in layers if other.board != each.board]
        table.append(
            Error(
                each.model,
                each.board,
                each.ms,
                error(each, fit([other for other in models if other is not each], layers)),
                error(each, fit(model, layers)),
                error(each, fit(board, there)),
            )
        )
    return tuple(table)


def layers_left_out() -> tuple[float, ...]:
    """Every single layer's error against a fit without the layers from the same source."""
    models, layers = published()
    fits = {
        source: fit(models, [each for each in layers if each.source != source])
        for source in {each.source for each in layers}
    }
    return tuple(error(each, fits[each.source]) for each in layers)


def spread(errors: Iterable[float]) -> float:
    """The factor that the second largest error stays within, either way."""
    return exp(sorted(abs(log(1 + each)) for each in errors)[-2])


def best() -> Fitted:
    """The fit to everything published, with the spread of what was left out."""
    models, layers = published()
    table = leave_one_out()
    boards = tuple(sorted({each.board for each in models}))
    return Fitted(
        fit(models, layers),
        boards,
        max(spread(row.without_point for row in table), spread(row.without_model for row in table)),
        spread(row.without_board for row in table),
        spread(layers_left_out()),
    )


def report() -> str:
    """The table of errors as Markdown, and the fitted costs."""
    table = leave_one_out()
    columns = ("without_point", "without_model", "without_board")
    lines = [
        "| model | board | published, ms | point left out | model left out | board left out |",
        "|---|---|---|---|---|---|",
    ]
    for row in table:
        errors = " | ".join(f"{100 * getattr(row, name):+.0f} %" for name in columns)
        lines.append(f"| {row.model} | {row.board} | {row.ms:.2f} | {errors} |")
    medians = [median(abs(getattr(row, name)) for row in table) for name in columns]
    spreads = [spread(getattr(row, name) for row in table) for name in columns]
    lines.append("| median | | | " + " | ".join(f"{100 * value:.0f} %" for value in medians) + " |")
    lines.append("| all but one within | | | " + " | ".join(f"x{value:.2f}" for value in spreads) + " |")
    lines += ["", "| layer | measured, ms | its source left out |", "|---|---|---|"]
    left_out = zip(published()[1], layers_left_out(), strict=True)
    lines += [f"| {each.model} | {each.ms:.3f} | {100 * off:+.0f} % |" for each, off in left_out]
    lines += ["", "| whole transformer | measured, ms | its layers left out |", "|---|---|---|"]
    whole = zip(encoders(), encoders_left_out(), strict=True)
    lines += [f"| {each.model} | {each.ms:.1f} | {100 * off:+.0f} % |" for each, off in whole]
    return "\n".join([*lines, "", str(best())])


if __name__ == "__main__":
    print(report())
    write_atomically(FITTED, json.dumps(asdict(best()), indent=2) + "\n")
