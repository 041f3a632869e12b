"""Trials of what mends a build: each is built, simulated on a few images and compared with the float model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from edgevit.backends.proof import REPAIR_SECONDS, TOLERANCE, Probe, Proof, Verdict, relative_error
from edgevit.backends.protocol import CompileRequest, Outputs
from edgevit.backends.rknn import cures, divergence
from edgevit.backends.rknn.build import Build, build
from edgevit.backends.rknn.cures import Cure, Trial
from edgevit.backends.rknn.log import parse_log
from edgevit.errors import ToolchainError
from edgevit.placement.estimate import Cost, cost_of
from edgevit.progress import Progress, Quiet
from edgevit.targets.profiles import Board
from edgevit.toolchains import environment

FEW = 4  # images of a trial: a wrong rule shows on every one

Run = Callable[[dict[str, Any], Probe], tuple[Build, Outputs]]


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

    What mended a graph like it before is tried first, then what mends the shortest beginning of it that is wrong
    too: blocks repeat, and it is built in a fraction of the time. A trial that takes over `trial_s` seconds counts
    as one that the compiler died of.
    """
    assert request.onnx is not None
    toolkit = environment.title(request.board.toolchain)
    count, key = 0, cures.fingerprint(request.onnx, arguments["target"], toolkit)

    def run(given: dict[str, Any], probe: Probe) -> tuple[Build, Outputs]:
        nonlocal count
        count += 1
        return tried(request, given, probe, trial_s)

    def trial_of(given: dict[str, Any], probe: Probe, tolerance: float) -> Trial:
        expected = np.load(probe.outputs, allow_pickle=False)

        def trial(cure: Cure, what: str) -> tuple[Verdict, Cost]:
            progress.advance(count + 1, 0, f"build {what}")
            try:
                built, outputs = run(cure.of(given), probe)
            except ToolchainError:
                return "died", ()
            right = relative_error(outputs, expected, probe.sizes) <= tolerance
            return "right" if right else "wrong", cost(built.log, request.board)

        return trial

    def guesses() -> Iterator[tuple[Cure, str]]:
        if (known := cures.recall(key)) is not None:
            yield known, "before"
        if not math.isfinite(proof.error):  # why the whole does not build, no part says
            return
        with TemporaryDirectory(dir=request.out) as folder:
            progress.advance(count, 0, "look for a part of the graph that is wrong too")
            part = wrong_part(request, few, arguments, run, Path(folder))
            if part is None:
                return
            given, probe, part_log = part
            trial = trial_of(given, probe, TOLERANCE)
            found = cures.find(part_log, cost(part_log, request.board), trial, seconds=REPAIR_SECONDS / 2)
        if found is not None:
            yield found, "its first part asks for"

    whole = trial_of(arguments, few, proof.tolerance)
    found = cures.find(log, cost(log, request.board), whole, guesses())
    if found is not None:
        cures.remember(key, found)
    return found, count


def tried(
    request: CompileRequest, arguments: dict[str, Any], probe: Probe, trial_s: float
) -> tuple[Build, Outputs]:
    """A build for its answers on a probe alone, within `trial_s` seconds; nothing of it stays."""
    with TemporaryDirectory(dir=request.out, ignore_cleanup_errors=True) as folder:
        job = Path(folder) / "job"
        alone = {"artefact": str((job / "model.rknn").resolve()), "evaluate": None, "outputs": None}
        return simulated(request.board.toolchain, arguments | alone, probe, job, Quiet(), trial_s)


def wrong_part(
    request: CompileRequest, few: Probe, arguments: dict[str, Any], run: Run, folder: Path
) -> tuple[dict[str, Any], Probe, str] | None:
    """A build's arguments for the shortest beginning that is wrong, what it is to give, and its log as built."""
    log = ""

    def simulate(graph: Path, cut: Probe) -> Outputs:
        nonlocal log
        built, outputs = run(of_part(arguments, graph), cut)
        log = built.log
        return outputs

    assert request.onnx is not None
    part = divergence.wrong_part(request.onnx, few, request.preprocessing, simulate, folder)
    return None if part is None else (of_part(arguments, part[0]), part[1], log)


def cost(log: str, board: Board) -> Cost:
    """What a build's log says that it takes; () where the build was not made."""
    try:
        return cost_of(parse_log(log), board)
    except ToolchainError:
        return ()


def of_part(arguments: dict[str, Any], graph: Path) -> dict[str, Any]:
    """A build's arguments for a part of its graph: each shape is to come out as it is there."""
    return arguments | {"model": str(graph.resolve()), "config": {}}
