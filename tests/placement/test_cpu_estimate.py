"""The estimate for processors: what it may depend on, and how far off it is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgevit.placement.cpu_estimate import estimate_cpu, features, fitted
from edgevit.targets.profiles import Cpu, load_board, shipped

BILLION = 10**9
HERE = Path(__file__).parents[2] / "benchmarks" / "latency"


def cpu(**values: object) -> Cpu:
    return Cpu.model_validate({"cores": 4, "ghz": 2.0} | values)


def test_time_grows_with_work_and_falls_with_clock_and_cores() -> None:
    one = estimate_cpu(BILLION, cpu(), quantized=False)
    assert estimate_cpu(2 * BILLION, cpu(), quantized=False).latency_ms == pytest.approx(2 * one.latency_ms)
    assert estimate_cpu(BILLION, cpu(ghz=4.0), quantized=False).latency_ms == pytest.approx(
        one.latency_ms / 2
    )
    assert estimate_cpu(BILLION, cpu(cores=1), quantized=False).latency_ms > 2 * one.latency_ms
    assert estimate_cpu(BILLION, cpu(pipes=2), quantized=False).latency_ms < one.latency_ms
    assert estimate_cpu(BILLION, cpu(in_order=True), quantized=False).latency_ms > one.latency_ms
    assert estimate_cpu(BILLION, cpu(), quantized=True).latency_ms < one.latency_ms
    assert one.low_ms < one.latency_ms < one.high_ms and one.where == "4 threads"


def test_figures_left_out_are_met_within_thirty_percent_in_the_median() -> None:
    """As `fit_cpu.py` says, computed here by itself."""
    published = json.loads((HERE / "cpu.json").read_text())
    rows, times = [], []
    for board, threads, source, kind, model, ms in published["figures"]:
        core = published["cores"][board]
        rows.append(
            features(cpu(**core), quantized=kind == "int8", threads=threads, older=source == "netspresso")
        )
        times.append(np.log(ms * core["ghz"] / published["macs_g"][model]))
    given, wanted = np.array(rows), np.array(times)
    penalty = 0.05 * np.diag([0.0] + [1.0] * (given.shape[1] - 1))
    errors = []
    for left_out in range(len(wanted)):
        kept = np.arange(len(wanted)) != left_out
        weights = np.linalg.solve(given[kept].T @ given[kept] + penalty, given[kept].T @ wanted[kept])
        errors.append(np.expm1(given[left_out] @ weights - wanted[left_out]))
    assert np.median(np.abs(errors)) < 0.3
    everything = np.linalg.solve(given.T @ given + penalty, given.T @ wanted)
    np.testing.assert_allclose(fitted()["coefficients"], everything, atol=1e-3)


def test_boards_with_a_processor_have_an_estimate() -> None:
    described = [name for name in shipped("boards") if load_board(name).cpu is not None]
    assert set(described) >= {"raspberrypi4", "raspberrypi5", "cpu-rk3588", "cpu-rk3566", "android-arm64"}
