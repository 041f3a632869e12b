"""Fit the processors' estimate on published latencies, and say how far off it is for each figure left out.

    python benchmarks/latency/fit_cpu.py

Writes edgevit/placement/fitted_cpu.json and the table of benchmarks/latency/CPU.md.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from edgevit.files import write_atomically
from edgevit.placement.cpu_estimate import FITTED, features
from edgevit.targets.profiles import Cpu

HERE = Path(__file__).parent
RIDGE = 0.05  # few figures: no coefficient is to explain one of them
OLDER = "netspresso"
START, END = "<!-- table: written by fit_cpu.py -->\n", "<!-- end of table -->\n"


def main() -> None:
    published = json.loads((HERE / "cpu.json").read_text(encoding="utf-8"))
    figures = published["figures"]
    rows = np.array([row_of(each, published) for each in figures])
    times = np.array([scaled(each, published) for each in figures])
    errors = []
    for left_out in range(len(figures)):
        others = np.arange(len(figures)) != left_out
        errors.append(float(rows[left_out] @ solve(rows[others], times[others]) - times[left_out]))
    sizes = np.abs(np.expm1(errors))
    spread = math.exp(float(np.quantile(np.abs(errors), 0.9)))
    found = {
        "coefficients": [round(float(each), 4) for each in solve(rows, times)],
        "spread": round(spread, 2),
    }
    write_atomically(FITTED, json.dumps(found, indent=1) + "\n")
    lines = [
        "| board | threads | software | type | model | published, ms | left out |",
        "|---|---:|---|---|---|---:|---:|",
    ]
    for (board, threads, source, kind, model, ms), error in zip(figures, errors, strict=True):
        lines.append(
            f"| {board} | {threads} | {source} | {kind} | {model} | {ms} | {100 * math.expm1(error):+.0f} % |"
        )
    lines.append(f"| median | | | | | | {100 * float(np.median(sizes)):.0f} % |")
    lines.append(f"| nine of ten within | | | | | | x{spread:.1f} |")
    path = HERE / "CPU.md"
    text = path.read_text(encoding="utf-8")
    write_atomically(path, text.split(START)[0] + START + "\n".join(lines) + "\n" + END + text.split(END)[1])
    print("\n".join(lines))


def row_of(figure: list[Any], published: dict[str, Any]) -> list[float]:
    """The features of a published figure."""
    board, threads, source, kind, _, _ = figure
    cpu = Cpu(cores=4, **published["cores"][board])
    return features(cpu, quantized=kind == "int8", threads=threads, older=source == OLDER)


def scaled(figure: list[Any], published: dict[str, Any]) -> float:
    """The logarithm of milliseconds times GHz for a billion multiply-accumulates."""
    board, _, _, _, model, ms = figure
    return math.log(ms * published["cores"][board]["ghz"] / published["macs_g"][model])


def solve(rows: Any, times: Any) -> Any:
    """Least squares with a small penalty on all but the constant."""
    penalty = RIDGE * np.diag([0.0] + [1.0] * (rows.shape[1] - 1))
    return np.linalg.solve(rows.T @ rows + penalty, rows.T @ times)


if __name__ == "__main__":
    main()
