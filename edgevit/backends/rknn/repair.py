"""The toolkit's float build of a graph, proved against the float model, and the fusion rules that break it.

The toolkit's own `accuracy_analysis` can't see a wrong rule: its reference is taken after its own rewriting.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from edgevit.backends import float16
from edgevit.backends.proof import REPAIR_SECONDS, Probe, Proof, relative_error
from edgevit.backends.protocol import CompileRequest, Outputs, time_limit_s
from edgevit.backends.rknn import cures, divergence, trials
from edgevit.backends.rknn.build import Build, read_log
from edgevit.backends.rknn.cures import Cure
from edgevit.backends.rknn.log import parse_log
from edgevit.backends.vendor_folder import write_vendor_folder
from edgevit.errors import ToolFailed
from edgevit.progress import Progress

# What a trial may take, in times of the build as it was and at least in seconds: without some of its rules the
# compiler undoes and redoes the same step for ever.
TIMES, AT_LEAST = 5, 30.0


def prove(
    request: CompileRequest, probe: Probe, arguments: dict[str, Any], progress: Progress
) -> tuple[Proof, Build]:
    """Build in float, simulate the probe, and search for the cause where its outputs are wrong.

    `arguments` are the worker's for a float build: its artefact, and its outputs on `request.evaluate`, are there
    where the proof is right, by the last build, which comes back too. Where nothing mends it, `request.out` keeps a
    folder `for-vendor`. Raises ToolchainError where the model does not build at all.
    """
    expected, jobs = np.load(probe.outputs, allow_pickle=False), request.out / "jobs"
    limit_s = time_limit_s(request)
    begun = time.monotonic()
    try:
        first, found = trials.simulated(
            request.board.toolchain, arguments, probe, jobs / "as-built", progress, limit_s
        )
    except ToolFailed as error:
        return revived(request, probe, arguments, jobs / "as-built", error, progress)
    trial_s = max(AT_LEAST, TIMES * (time.monotonic() - begun))
    proof = Proof(len(expected), relative_error(found, expected, probe.sizes))
    if proof.right:
        return proof, first
    assert request.onnx is not None and request.board.npu is not None
    # All that it is compared with: some images' values are rounded more than others'.
    images = request.preprocessing.normalise(np.load(probe.pixels, allow_pickle=False))
    own = float16.own_error(request.onnx, images, expected, probe.sizes)
    if not math.isfinite(own):
        node, largest = float16.largest_value(request.onnx, images[: trials.FEW])
        reason = f"{node} reaches {largest:.0f}, more than float16 holds ({float16.LARGEST:.0f})"
        return replace(proof, reason=reason, overflows=True), first
    proof = replace(proof, own_error=own)
    if proof.right:
        first, _ = trials.simulated(
            request.board.toolchain, arguments, probe, jobs / "again", progress, limit_s, proof.tolerance
        )
        return replace(proof, builds=2), first
    progress.warn(
        f"{request.board.id}: the compiled graph computes something else (relative error {proof.error:.2g}); "
        "searching the compiler's rules for the cause"
    )
    # Rules that the build died of need not be tried again in every trial.
    arguments = Cure(first.disabled_rules).of(arguments)
    last = first
    with trials.few_of(probe, request.out) as few:
        cure, tried = trials.searched(request, few, arguments, first.log, proof, progress, trial_s)
        proof = replace(proof, builds=1 + tried)
        if cure is not None:
            proof, last, found = mended(request, probe, arguments, cure, proof, progress)
            proof = replace(proof, cycles=(parse_log(first.log).cycles, parse_log(last.log).cycles))
        if not proof.right:
            layer = first_wrong_layer(request, few, arguments, progress, trial_s)
            proof = replace(proof, reason=f"the first wrong layer is {layer}")
            facts = {"platform": arguments["target"], "toolkit": first.result["toolkit"]}
            write_vendor_folder(
                request.out,
                request.onnx,
                probe,
                request.preprocessing,
                found,
                proof,
                log=first.log,
                facts=facts,
            )
    return proof, last


def revived(
    request: CompileRequest,
    probe: Probe,
    arguments: dict[str, Any],
    job: Path,
    error: ToolFailed,
    progress: Progress,
) -> tuple[Proof, Build]:
    """The build without the rules that the compiler died of, where it does not say itself which those are.

    `job` has its log. Raises the `error` it died with where it applied none, or nothing mends it.
    """
    log = read_log(max(job.glob("build-*"), key=lambda each: each.stat().st_mtime, default=job))
    if not cures.applied(log):
        raise error
    progress.warn(f"{request.board.id}: the compiler died ({error.why}); searching its rules for the cause")
    proof = Proof(len(np.load(probe.outputs, mmap_mode="r")), math.inf, reason=str(error.why))
    with trials.few_of(probe, request.out) as few:
        cure, tried = trials.searched(request, few, arguments, log, proof, progress, REPAIR_SECONDS)
    if cure is None:
        raise error
    proof, built, _ = mended(request, probe, arguments, cure, replace(proof, builds=1 + tried), progress)
    if not proof.right:
        raise error
    return proof, built


def mended(
    request: CompileRequest,
    probe: Probe,
    arguments: dict[str, Any],
    cure: Cure,
    proof: Proof,
    progress: Progress,
) -> tuple[Proof, Build, Outputs]:
    """The build with a cure and its outputs on the whole probe, and the proof with what came of it."""
    built, found = trials.simulated(
        request.board.toolchain,
        cure.of(arguments),
        probe,
        request.out / "jobs" / "repaired",
        progress,
        time_limit_s(request),
        proof.tolerance,
    )
    repaired = relative_error(found, np.load(probe.outputs, allow_pickle=False), probe.sizes)
    options = cure.options(arguments)
    proof = replace(
        proof, repaired=repaired, left_out=cure.left_out, options=options, builds=proof.builds + 1
    )
    return proof, built, found


def first_wrong_layer(
    request: CompileRequest, few: Probe, arguments: dict[str, Any], progress: Progress, trial_s: float
) -> str:
    """The first layer that is wrong as built; each part of the graph is built within `trial_s` seconds."""
    assert request.onnx is not None
    with TemporaryDirectory(dir=request.out) as folder:

        def simulate(graph: Path, cut: Probe) -> Outputs:
            return trials.tried(request, trials.of_part(arguments, graph), cut, trial_s)[1]

        return divergence.first_divergence(
            request.onnx, few, request.preprocessing, simulate, Path(folder), progress
        )
