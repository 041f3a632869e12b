"""LiteRT's float file of an exported program, proved on a probe; where the usual conversion fails, another way.

The converter rewrites a program in passes before it lowers it. Some of them break some models: what they make
does not pass its own checks, or computes something else. They are optimisations, so it goes without. Some models
it can't lower as torch spells them, but as their graph does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgevit.backends.litert.calls import TOOLCHAIN, answers, text
from edgevit.backends.proof import TOLERANCE, Proof, relative_error
from edgevit.backends.protocol import BUILD_SECONDS, FloatRequest, Outputs
from edgevit.backends.vendor_folder import write_vendor_folder
from edgevit.errors import EdgevitError
from edgevit.progress import Progress
from edgevit.toolchains import environment
from edgevit.toolchains.call import run_job

# Passes of litert-torch that may be left out.
PASSES = ("OptimizeLayoutTransposesPass", "ReduceViewRankPass", "BuildAtenCompositePass")
WRONG = "its own optimisations change what it computes"
SPELLING = "torch's spelling"  # the program as torch gives it, and not that of its graph
WAYS = ((), PASSES[:1], (SPELLING,), *((name,) for name in PASSES[1:]), PASSES)


@dataclass(frozen=True)
class Attempt:
    """One way to convert: its file and its outputs' relative error, or why there is none."""

    without: tuple[str, ...]
    file: Path
    outputs: Outputs | None
    error: float
    failure: EdgevitError | None = None


def convert_float(request: FloatRequest, progress: Progress) -> tuple[Path, Proof]:
    """The float .tflite of a program, by the first way whose file gives the expected outputs on the probe.

    Where none does, a wrong file comes back with a proof that says so, and `request.out` has a folder
    `for-vendor`. Raises the usual way's ToolchainError where no way gives a file.
    """
    tried: list[Attempt] = []
    for number, without in enumerate(WAYS):
        if number:
            progress.advance(number, len(WAYS), f"convert without {' and '.join(without)}")
        tried.append(attempt(request, without, request.out / "jobs" / f"way-{number}", progress))
        if tried[-1].error <= TOLERANCE:
            break
        if not number:
            why = tried[0].failure.why if tried[0].failure else f"relative error {tried[0].error:.2g}"
            progress.warn(f"LiteRT's usual conversion does not give this model ({why}); trying others")
    usual = tried[0]
    made = [each for each in tried if each.outputs is not None]
    if not made:
        assert usual.failure is not None
        raise usual.failure
    best = min(made, key=lambda each: each.error)
    proof = Proof(
        images=len(np.load(request.probe.outputs, mmap_mode="r")),
        error=usual.error,
        repaired=best.error if best.without else None,
        left_out=best.without,
        builds=len(tried),
        reason=usual.failure.why
        if usual.failure
        else WRONG
        if best.without or usual.error > TOLERANCE
        else None,
    )
    if not proof.right:
        assert best.outputs is not None
        write_vendor_folder(
            request.out,
            request.program,
            request.probe,
            request.preprocessing,
            best.outputs,
            proof,
            log=log_of(request),
            facts=environment.versions(TOOLCHAIN),
        )
    final = request.out / "float.tflite"
    best.file.replace(final)
    for each in made:
        each.file.unlink(missing_ok=True)
    return final, proof


def attempt(request: FloatRequest, without: tuple[str, ...], job: Path, progress: Progress) -> Attempt:
    """Convert without some passes or the program's spelling, and run the probe."""
    file = request.out / f"{job.name}.tflite"
    program, passes = request.program, [name for name in without if name != SPELLING]
    try:
        if SPELLING in without:
            from edgevit.export.graph_module import program_by_graph  # loads torch

            program = program_by_graph(program, request.out / f"{job.name}.pt2")
        arguments = {"program": text(program), "artefact": text(file), "without": passes}
        run_job(TOOLCHAIN, "convert", arguments, job, progress=progress, timeout_s=BUILD_SECONDS)
        found = answers(file, request.probe.pixels, job / "run", request.preprocessing, progress)
    except EdgevitError as error:
        file.unlink(missing_ok=True)
        return Attempt(without, file, None, math.inf, error)
    finally:
        if program != request.program:
            program.unlink(missing_ok=True)
    return Attempt(
        without, file, found, relative_error(found, np.load(request.probe.outputs), request.probe.sizes)
    )


def log_of(request: FloatRequest) -> str:
    """What the usual conversion printed."""
    log = request.out / "jobs" / "way-0" / "log.txt"
    return log.read_text(encoding="utf-8", errors="replace")
