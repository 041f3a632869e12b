"""Trials of what mends a build: each is built, simulated on a few images and compared with the float model."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from edgevit.backends.proof import TOLERANCE, Probe, Proof, Verdict, relative_error
from edgevit.backends.protocol import CompileRequest, Outputs
from edgevit.backends.rknn import cures
from edgevit.backends.rknn.build import Build, build
from edgevit.backends.rknn.cures import Cure
from edgevit.backends.rknn.log import parse_log
from edgevit.errors import ToolchainError
from edgevit.progress import Progress, Quiet
from edgevit.toolchains import environment

FEW = 4  # images of a trial: a wrong rule shows on every one


def simulated(
    toolchain: str,
    arguments: dict[str, Any],
    probe: Probe,
    job: Path,
    progress: Progress,
    timeout_s: float,
    tolerance: float = TOLERANCE,
) -> tuple[Build, Outputs]:
    """A float build and its outputs on a probe; it goes on to the arguments' own images where they are right."""
    job.mkdir(parents=True)
    outputs = job / "probe-outputs.npy"
    values = {
        **arguments,
        "probe": {
            "pixels": str(probe.pixels.resolve()),
            "outputs": str(outputs.resolve()),
            "expected": str(probe.outputs.resolve()),
            "tolerance": tolerance,
            "sizes": list(probe.sizes),
        },
    }
    built = build(toolchain, "build", values, job, progress, timeout_s)
    found: Outputs = np.load(outputs, allow_pickle=False)
    outputs.unlink()
    if not built.result["right"]:
        Path(arguments["artefact"]).unlink()
    return built, found


@contextmanager
def few_of(probe: Probe, folder: Path) -> Iterator[Probe]:
    """The first images of a probe, as long as they are needed."""
    few = Probe(folder / "few.npy", folder / "few-outputs.npy", probe.sizes)
    np.save(few.pixels, np.load(probe.pixels, allow_pickle=False)[:FEW])
    np.save(few.outputs, np.load(probe.outputs, allow_pickle=False)[:FEW])
    yield few
    for path in (few.pixels, few.outputs):
        path.unlink()


def searched(
    request: CompileRequest,
    few: Probe,
    arguments: dict[str, Any],
    log: str,
    proof: Proof,
    progress: Progress,
    trial_s: float,
) -> tuple[Cure | None, int]:
    """What mends the build of a `log` on a few images, kept for the next graph like it; and how many were tried.

    A trial that takes over `trial_s` seconds counts as one that the compiler died of.
    """
    expected, trials = np.load(few.outputs, allow_pickle=False), 0

    def trial(cure: Cure, what: str) -> tuple[Verdict, int]:
        nonlocal trials
        trials += 1
        progress.advance(trials, 0, f"build {what}")
        job = request.out / "jobs" / f"trial-{trials}"
        try:
            tried = cure.of(alone(arguments, job))
            built, outputs = simulated(request.board.toolchain, tried, few, job, Quiet(), trial_s)
        except ToolchainError:
            return "died", 0
        finally:
            shutil.rmtree(job, ignore_errors=True)
        right = relative_error(outputs, expected, few.sizes) <= proof.tolerance
        return "right" if right else "wrong", parse_log(built.log).cycles

    assert request.onnx is not None
    toolkit = environment.title(request.board.toolchain)
    key = cures.fingerprint(request.onnx, arguments["target"], toolkit)
    found = cures.find(log, parse_log(log).cycles, trial, known=cures.recall(key))
    if found is not None:
        cures.remember(key, found)
    return found, trials


def alone(arguments: dict[str, Any], job: Path) -> dict[str, Any]:
    """A build's arguments for its answers on a probe alone; its artefact stays in the job's folder."""
    return {
        **arguments,
        "artefact": str((job / "model.rknn").resolve()),
        "evaluate": None,
        "outputs": None,
    }
