"""LiteRT (TensorFlow Lite) on a CPU: torch.export program to float .tflite, then the vendor's quantizer."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from edgevit.backends.protocol import CompileRequest, CompileResult, Handover
from edgevit.progress import Progress
from edgevit.toolchains import environment
from edgevit.toolchains.call import run_job

HANDOVER: Handover = "program"
TOOLCHAIN = "litert"
HOUR_S = 3600.0


def tools() -> dict[str, str]:
    """Versions that decide an artefact. Raises ToolchainError if the toolchain is not installed."""
    return environment.versions(TOOLCHAIN)


def compile(request: CompileRequest, progress: Progress) -> CompileResult:  # noqa: A001 - the protocol's word
    """Convert, quantize if the plan says so, run on the host's CPU."""
    jobs = request.out / "jobs"
    mean = [255 * value for value in request.preprocessing.mean]
    std = [255 * value for value in request.preprocessing.std]

    def call(name: str, **args: Any) -> dict[str, Any]:
        return run_job(TOOLCHAIN, name, args, jobs / name, progress=progress, timeout_s=HOUR_S)

    artefact = request.out / "model.tflite"
    converted = jobs / "float.tflite" if request.plan.quantized else artefact
    jobs.mkdir()
    call("convert", program=text(request.program), artefact=text(converted))
    if request.plan.quantized:
        call(
            "quantize",
            model=text(converted),
            artefact=text(artefact),
            recipe=request.plan.litert_recipe,
            calibration=text(request.calibration),
            mean=mean,
            std=std,
        )
        converted.unlink()
    logits = None
    if request.evaluate is not None:
        logits = request.out / "logits.npy"
        ran = call(
            "run",
            model=text(artefact),
            pixels=text(request.evaluate),
            mean=mean,
            std=std,
            logits=text(logits),
            threads=os.cpu_count() or 1,
        )
    else:
        ran = call("partitions", model=text(artefact))
    details = {name: ran[name] for name in ("partitions", "operations", "outside")}
    return CompileResult(artefact, logits, "host CPU", tools(), details)


def text(path: Path | None) -> str:
    """An absolute path for a worker, which runs in a folder of its own."""
    assert path is not None
    return str(path.resolve())
