"""LiteRT (TensorFlow Lite) on a CPU: torch.export program to float .tflite, then the vendor's quantizer."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgevit.backends.litert.calls import TOOLCHAIN, answers, pixel_scaling, text
from edgevit.backends.litert.float_file import convert_float
from edgevit.backends.litert.on_board import ON_BOARD
from edgevit.backends.litert.recipes import DELEGATES, VENDOR_DEFAULT, rules
from edgevit.backends.protocol import (
    BUILD_SECONDS,
    IMAGE_SECONDS,
    Backend,
    CompileRequest,
    CompileResult,
    Outputs,
    Pixels,
    time_limit_s,
)
from edgevit.backends.trials import Candidate, Quantizers, Trial, TrialRequest, Trials
from edgevit.errors import ToolchainError
from edgevit.files import publish
from edgevit.images.preprocessing import Preprocessing
from edgevit.progress import Progress
from edgevit.targets.profiles import Board, Strict
from edgevit.toolchains import environment
from edgevit.toolchains.call import run_job

ROUNDS, ROUNDS_SECONDS = 40, 20.0


class LitertOptions(Strict):
    """`recipe`: edgevit's name of a way to quantize, or one of the vendor's quantizer; None: it is measured."""

    recipe: str | None = None


def candidates(delegate: str) -> tuple[Candidate, ...]:
    """Ways to quantize for a delegate, "cpu" or "npu", the preferred first."""
    return DELEGATES[delegate]


def tools(board: Board) -> dict[str, str]:
    """Versions that decide an artefact. Raises ToolchainError if the toolchain is not installed."""
    return environment.versions(TOOLCHAIN)


def make(request: CompileRequest, progress: Progress) -> CompileResult:
    """Make a .tflite that takes float32 [1, height, width, channels] normalised; run it on this machine's CPU.

    Details: `partitions` (pieces that XNNPACK runs; more than one costs time), `operations`, `outside` (those
    XNNPACK does not run), `peak_bytes` of the largest worker, `needs_at_least` (versions on the device),
    `takes` (the type of the input).
    """
    timeout_s = time_limit_s(request)
    peaks = []
    options: LitertOptions = LITERT.options_of(request.plan.options)
    jobs = request.out / "jobs"
    scaling = pixel_scaling(request.preprocessing)

    def call(name: str, **args: Any) -> dict[str, Any]:
        result = run_job(TOOLCHAIN, name, args, jobs / name, progress=progress, timeout_s=timeout_s)
        peaks.append(result["peak_bytes"])
        return result

    artefact = request.out / "model.tflite"
    if request.plan.quantized:
        call(
            "quantize",
            model=text(request.vendor_float),
            artefact=text(artefact),
            recipe=rules(options.recipe or VENDOR_DEFAULT),
            calibration=text(request.calibration),
            **scaling,
        )
    else:
        assert request.vendor_float is not None
        publish(request.vendor_float, artefact)
    told = call("describe", model=text(artefact), description=request.description)
    outputs = None
    if request.evaluate is not None:
        outputs = request.out / "outputs.npy"
        ran = call(
            "run",
            model=text(artefact),
            pixels=text(request.evaluate),
            outputs=text(outputs),
            threads=os.cpu_count() or 1,
            **scaling,
        )
    else:
        ran = call("partitions", model=text(artefact))
    details = {name: ran[name] for name in ("partitions", "operations", "outside")}
    details["peak_bytes"] = max(peaks)
    details["needs_at_least"] = {"TensorFlow Lite": told["oldest"]} if told["oldest"] else {}
    details["takes"] = told["takes"]
    return CompileResult(artefact, outputs, "host CPU", tools(request.board), details)


def measure(request: TrialRequest, progress: Progress) -> Trials:
    """Make every candidate from the float .tflite, run all on the held-out images, and time all in turns.

    A candidate that the vendor's tools refuse or die of is a failed trial; float must work.
    """
    call = caller(request, progress)
    in_float = request.source_model
    reference = run(call, "float", in_float, request)["outputs"]
    found: dict[str, tuple[Path, dict[str, Any]] | str] = {}
    for number, candidate in enumerate(request.candidates):
        label, model = candidate.label, request.out / f"{number}.tflite"
        progress.advance(number, len(request.candidates), f"try {label}")
        try:
            call(
                f"quantize-{label}",
                "quantize",
                model=text(in_float),
                artefact=text(model),
                recipe=rules(label),
                calibration=text(request.fit),
                **pixel_scaling(request.preprocessing),
            )
            found[label] = model, run(call, label, model, request)
        except ToolchainError as error:
            found[label] = error.why
    made = [each[0] for each in found.values() if not isinstance(each, str)]
    times: list[list[float]] = [[] for _ in range(len(made) + 1)]
    if request.timed and made:
        models = [text(model) for model in (in_float, *made)]
        limits = {"threads": 1, "rounds": ROUNDS, "seconds": ROUNDS_SECONDS}
        times = call("time", "benchmark", models=models, **limits)["ms"]
    by_model = {model: tuple(series) for model, series in zip(made, times[1:], strict=True)}
    tried = tuple(trial_of(label, made_or_why, by_model) for label, made_or_why in found.items())
    return Trials(reference, tuple(times[0]), tried)


def caller(request: TrialRequest, progress: Progress) -> Callable[..., dict[str, Any]]:
    """A function (job's name, call, arguments) that runs one call of the worker."""
    images = sum(len(np.load(path, mmap_mode="r")) for path in (request.fit, request.held_out))
    timeout_s = BUILD_SECONDS + IMAGE_SECONDS * images

    def call(job: str, name: str, **args: Any) -> dict[str, Any]:
        folder = request.out / "jobs" / job
        return run_job(TOOLCHAIN, name, args, folder, progress=progress, timeout_s=timeout_s)

    return call


def run(
    call: Callable[..., dict[str, Any]], label: str, model: Path, request: TrialRequest
) -> dict[str, Any]:
    """What the worker tells of a model, its partitions among it, and its `outputs` on the held-out images."""
    # Not beside the model: the float one lies in another step's folder.
    outputs = request.out / f"{model.stem}.npy"
    ran = call(
        f"run-{label}",
        "run",
        model=text(model),
        pixels=text(request.held_out),
        outputs=text(outputs),
        threads=os.cpu_count() or 1,
        **pixel_scaling(request.preprocessing),
    )
    return {**ran, "outputs": np.load(outputs)}


def trial_of(
    label: str, found: tuple[Path, dict[str, Any]] | str, by_model: dict[Path, tuple[float, ...]]
) -> Trial:
    """A candidate's trial from what the workers left, or from why one failed."""
    if isinstance(found, str):
        return Trial(label, None, failure=found)
    model, ran = found
    details = {"partitions": ran["partitions"], "bytes": model.stat().st_size}
    return Trial(label, ran["outputs"], by_model[model], details=details)


def predict(artefact: Path, pixels: Pixels, preprocessing: Preprocessing, progress: Progress) -> Outputs:
    """Outputs of a .tflite on this machine's CPU, one thread. Raises ToolchainError."""
    with tempfile.TemporaryDirectory(prefix="edgevit-predict-") as name:
        folder = Path(name)
        np.save(folder / "pixels.npy", pixels)
        return answers(artefact, folder / "pixels.npy", folder / "job", preprocessing, progress, threads=1)


LITERT = Backend(
    name="litert",
    suffix=".tflite",
    device="a CPU",
    source="LiteRT documentation, XNNPACK delegate",
    export_format="program",
    options=LitertOptions,
    tools=tools,
    compile=make,
    on_board=ON_BOARD,
    convert_float=convert_float,
    quantizers=Quantizers(("cpu", "npu"), candidates, measure),
    run=predict,
)
