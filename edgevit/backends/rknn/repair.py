"""The toolkit's float build of a graph, proved against ONNX Runtime, and the fusion rules that break it.

The toolkit's own `accuracy_analysis` can't see a wrong rule: its reference is taken after its own rewriting.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgevit.backends.onnxruntime import backend as onnxruntime
from edgevit.backends.proof import TOLERANCE, Proof, Verdict, relative_error, smallest_cause
from edgevit.backends.protocol import BUILD_SECONDS, CompileRequest, Outputs, Pixels
from edgevit.backends.rknn.build import Build, build
from edgevit.backends.rknn.log import parse_log
from edgevit.errors import ToolchainError
from edgevit.progress import Progress, Quiet

APPLIED = re.compile(r"^D +(\w+): remove node = ", re.MULTILINE)
LEVELS = (2, 1, 0)  # of optimization, below the toolkit's own
FEW = 4  # images of a trial: a wrong rule shows on every one


def prove(request: CompileRequest, arguments: dict[str, Any], progress: Progress) -> Proof:
    """Build in float, simulate `request.evaluate`, and search for the cause where the outputs are wrong.

    `arguments` are the worker's for a float build. Where nothing mends it, `request.out` keeps a folder
    `for-vendor`. Raises ToolchainError where the model does not build at all.
    """
    assert request.onnx is not None and request.evaluate is not None
    pixels = np.load(request.evaluate, allow_pickle=False)
    expected = onnxruntime.run(request.onnx, pixels, request.preprocessing, progress)
    jobs = request.out / "jobs"
    first, found = simulated(arguments, request.evaluate, jobs / "as-built", progress)
    error = relative_error(found, expected)
    if error <= TOLERANCE:
        return Proof(len(pixels), error)
    progress.warn(
        f"{request.board.id}: the compiled graph computes something else (relative error {error:.2g}); "
        "searching the compiler's rules for the cause"
    )
    few = request.out / "few.npy"
    np.save(few, pixels[:FEW])
    trials = 0

    def attempt(changed: dict[str, Any], what: str) -> Verdict:
        nonlocal trials
        trials += 1
        progress.advance(trials, 0, f"build {what}")
        job = jobs / f"trial-{trials}"
        try:
            _, outputs = simulated(changed, few, job, Quiet())
        except ToolchainError:
            return "died"
        finally:
            shutil.rmtree(job, ignore_errors=True)
        return "right" if relative_error(outputs, expected[:FEW]) <= TOLERANCE else "wrong"

    applied = [each for each in dict.fromkeys(APPLIED.findall(first.log)) if each not in first.disabled_rules]
    cause = smallest_cause(
        applied, lambda rules: attempt(without(arguments, rules), f"without {len(rules)} rules")
    )
    proof = Proof(len(pixels), error, builds=1 + trials)
    mended: dict[str, Any] | None = None
    options: dict[str, Any] = {}
    if cause is not None:
        mended, left_out, options = without(arguments, cause), cause, {"disable_rules": list(cause)}
    else:
        for level in LEVELS:
            changed = at_level(arguments, level)
            if attempt(changed, f"at optimization level {level}") == "right":
                mended, left_out = changed, (f"optimization beyond level {level}",)
                options = {"optimization_level": level}
                break
    if mended is not None:
        second, found = simulated(mended, request.evaluate, jobs / "repaired", progress)
        proof = replace(
            proof,
            repaired=relative_error(found, expected),
            left_out=left_out,
            options=options,
            cycles=(parse_log(first.log).cycles, parse_log(second.log).cycles),
            builds=2 + trials,
        )
    if not proof.right:
        write_vendor_folder(request, pixels, expected, found, first, proof)
    few.unlink()
    return proof


def without(arguments: dict[str, Any], rules: tuple[str, ...]) -> dict[str, Any]:
    """A build's arguments with rules left out besides those that are."""
    return {**arguments, "disable_rules": [*arguments.get("disable_rules", ()), *rules]}


def at_level(arguments: dict[str, Any], level: int) -> dict[str, Any]:
    """A build's arguments at a lower optimization level."""
    return {**arguments, "config": {**arguments.get("config", {}), "optimization_level": level}}


def simulated(
    arguments: dict[str, Any], images: Path, job: Path, progress: Progress
) -> tuple[Build, Outputs]:
    """A float build and its outputs on images; nothing of it but the log is kept."""
    job.mkdir(parents=True)
    artefact, outputs = job / "model.rknn", job / "outputs.npy"
    values = {
        **arguments,
        "quantize": False,
        "calibration": None,
        "evaluate": str(images.resolve()),
        "artefact": str(artefact.resolve()),
        "outputs": str(outputs.resolve()),
    }
    built = build("build", values, job, progress, BUILD_SECONDS)
    found: Outputs = np.load(outputs, allow_pickle=False)
    for path in (artefact, outputs):
        path.unlink()
    return built, found


def write_vendor_folder(
    request: CompileRequest, pixels: Pixels, expected: Outputs, found: Outputs, built: Build, proof: Proof
) -> None:
    """What the vendor needs to see the fault: graph, inputs, both outputs, log and versions, and nothing else."""
    folder = request.out / "for-vendor"
    folder.mkdir()
    assert request.onnx is not None and request.board.npu is not None
    shutil.copyfile(request.onnx, folder / "model.onnx")
    np.save(folder / "inputs.npy", request.preprocessing.normalise(pixels))
    np.save(folder / "expected.npy", expected)
    np.save(folder / "found.npy", found)
    (folder / "log.txt").write_text(built.log, encoding="utf-8")
    facts = {
        "platform": request.board.npu.target,
        "toolkit": built.result["toolkit"],
        "mean": list(request.preprocessing.mean),
        "std": list(request.preprocessing.std),
        "proof": proof.to_json(),
    }
    (folder / "versions.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
