"""Milliseconds of a model on a processor's cores, from its multiplications: a rough figure where nobody measured.

log(ms · GHz / billion multiply-accumulates) is linear in what a core is: one or two 128-bit multiply-add pipes,
in order or out of order, with or without dot products for int8, and in the logarithm of the threads. What a
published figure was made with (an older TensorFlow Lite is slower than XNNPACK of today) is a coefficient too;
estimates are for XNNPACK. Fitted on 28 published latencies of vision transformers
(`benchmarks/latency/fit_cpu.py`), with the errors of figures left out.
"""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path
from typing import Any

from edgevit.placement.estimate import Estimate
from edgevit.targets.profiles import Cpu

FITTED = Path(__file__).with_name("fitted_cpu.json")
MOST_THREADS = 4  # as the figures that were fitted


def features(cpu: Cpu, *, quantized: bool, threads: int, older: bool) -> list[float]:
    """What the logarithm of the time is linear in; `older`: TensorFlow Lite of 2024."""
    return [
        1.0,
        float(cpu.pipes > 1),
        float(cpu.in_order),
        float(quantized),
        float(quantized and cpu.dot_product),
        math.log(threads) / math.log(4),
        float(older),
    ]


@cache
def fitted() -> dict[str, Any]:
    """The coefficients, and the factor either way that nine of ten figures left out stay within."""
    found: dict[str, Any] = json.loads(FITTED.read_text(encoding="utf-8"))
    return found


def estimate_cpu(multiplications: int, cpu: Cpu, *, quantized: bool) -> Estimate:
    """Milliseconds an image on up to four cores, with the interval that nine of ten figures were in."""
    threads = min(cpu.cores, MOST_THREADS)
    given = features(cpu, quantized=quantized, threads=threads, older=False)
    exponent = sum(weight * value for weight, value in zip(fitted()["coefficients"], given, strict=True))
    ms = math.exp(exponent) * multiplications / 1e9 / cpu.ghz
    spread = fitted()["spread"]
    where = f"{threads} thread{'s' * (threads > 1)}"
    return Estimate(ms, ms / spread, ms * spread, {"multiplications": ms}, where=where)
