"""ONNX Runtime on a CPU: the simplified graph, quantized by the vendor's own tools if asked."""

from __future__ import annotations

import shutil
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgevit.backends.onnxruntime.on_board import ON_BOARD
from edgevit.backends.onnxruntime.recipes import CANDIDATES, RecipeName, quantize
from edgevit.backends.protocol import Backend, CompileRequest, CompileResult, Outputs, Pixels
from edgevit.backends.trials import Candidate, Quantizers, Trial, TrialRequest, Trials
from edgevit.errors import InputError
from edgevit.files import atomic_path
from edgevit.images.preprocessing import Preprocessing
from edgevit.progress import Progress
from edgevit.targets.profiles import Board, Strict

ROUNDS, MIN_ROUNDS, ROUNDS_SECONDS = 40, 7, 20.0
WARM_UP = 3
# What the vendor's guide recommends for transformers: used where there is nothing to measure on.
VENDOR_DEFAULT: RecipeName = "dynamic"


class OnnxOptions(Strict):
    """`recipe`: the name of a way to quantize; None: it is measured."""

    recipe: RecipeName | None = None


def candidates(delegate: str) -> tuple[Candidate, ...]:
    """Ways to quantize for the CPU, the most faithful first."""
    return CANDIDATES


def tools(board: Board) -> dict[str, str]:
    """Versions that decide an artefact."""
    return {"onnxruntime": version("onnxruntime"), "onnx": version("onnx")}


def make(request: CompileRequest, progress: Progress) -> CompileResult:
    """Copy the graph, or quantize it as the plan's `recipe` says, and run it on the host's CPU."""
    assert request.onnx is not None
    artefact = request.out / "model.onnx"
    with atomic_path(artefact) as staging:
        if request.plan.quantized:
            options: OnnxOptions = ONNXRUNTIME.options_of(request.plan.options)
            recipe = options.recipe or VENDOR_DEFAULT
            quantize(request.onnx, staging, recipe, request.calibration, request.preprocessing)
        else:
            shutil.copyfile(request.onnx, staging)
    outputs = None
    if request.evaluate is not None:
        outputs = request.out / "outputs.npy"
        pixels = np.load(request.evaluate, mmap_mode="r", allow_pickle=False)
        np.save(outputs, run(artefact, pixels, request.preprocessing, progress))
    return CompileResult(artefact, outputs, "host CPU", tools(request.board))


def measure(request: TrialRequest, progress: Progress) -> Trials:
    """Make every candidate, run all on the held-out images, and time all in turns on one thread."""
    held_out = np.load(request.held_out, mmap_mode="r", allow_pickle=False)
    models: dict[str, Path | str] = {}
    for number, candidate in enumerate(request.candidates):
        progress.advance(number, len(request.candidates), f"try {candidate.label}")
        model = request.out / f"{number}.onnx"
        try:
            quantize(request.source_model, model, candidate.label, request.fit, request.preprocessing)
            models[candidate.label] = model
        except InputError:
            raise
        except Exception as error:  # the vendor's tools raise whatever they like
            models[candidate.label] = f"{type(error).__name__}: {error}"[:200]
    made = [model for model in models.values() if isinstance(model, Path)]
    outputs = [
        run(model, held_out, request.preprocessing, progress) for model in (request.source_model, *made)
    ]
    one = request.preprocessing.normalise(np.asarray(held_out[:1]))
    times = in_turns([request.source_model, *made], one) if request.timed else [()] * len(outputs)
    by_model = dict(zip(made, zip(outputs[1:], times[1:], strict=True), strict=True))

    def trial(label: str, model: Path | str) -> Trial:
        if isinstance(model, str):
            return Trial(label, None, failure=model)
        return Trial(label, *by_model[model], details={"bytes": model.stat().st_size})

    return Trials(outputs[0], times[0], tuple(trial(*each) for each in models.items()))


def in_turns(
    models: list[Path],
    one: npt.NDArray[np.float32],
    *,
    rounds: int = ROUNDS,
    seconds: float = ROUNDS_SECONDS,
) -> list[tuple[float, ...]]:
    """Milliseconds of one inference of `one` [1, channels, height, width] on one thread, each model once a round.

    Stops after `seconds`, but not before a few rounds are done.
    """
    sessions = [open_model(model, threads=1) for model in models]
    name = sessions[0].get_inputs()[0].name
    times: list[list[float]] = [[] for _ in models]
    begun = time.perf_counter()
    for number in range(WARM_UP + rounds):
        if number >= WARM_UP + MIN_ROUNDS and time.perf_counter() - begun > seconds:
            break
        for session, series in zip(sessions, times, strict=True):
            started = time.perf_counter()
            session.run(None, {name: one})
            series.append(1000 * (time.perf_counter() - started))
    return [tuple(series[WARM_UP:]) for series in times]


def run(
    model: Path, pixels: npt.NDArray[np.uint8], preprocessing: Preprocessing, progress: Progress
) -> npt.NDArray[np.float32]:
    """Outputs float32 [n, classes] for pixels uint8 [n, height, width, channels]."""
    session = open_model(model)
    name = session.get_inputs()[0].name
    rows: list[Any] = []
    for number, image in enumerate(pixels):
        rows.append(session.run(None, {name: preprocessing.normalise(np.asarray(image)[None])})[0][0])
        progress.advance(number + 1, len(pixels))
    return np.stack(rows).astype(np.float32)


def open_model(model: Path, threads: int = 0) -> Any:
    """A session on the CPU; 0 threads: as many as there are cores."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def predict(artefact: Path, pixels: Pixels, preprocessing: Preprocessing, progress: Progress) -> Outputs:
    """Outputs of an .onnx on this machine's CPU. Raises InputError for a file that does not run."""
    try:
        return run(artefact, pixels, preprocessing, progress)
    except Exception as error:  # the runtime's own exceptions share no base class
        raise InputError(
            f"cannot run {artefact.name}",
            " ".join(str(error).split())[:200],
            "Check that the file is whole and takes this run's images",
        ) from error


ONNXRUNTIME = Backend(
    name="onnxruntime",
    suffix=".onnx",
    device="a CPU",
    source="ONNX Runtime documentation, CPU execution provider",
    export_format="onnx",
    options=OnnxOptions,
    tools=tools,
    compile=make,
    on_board=ON_BOARD,
    quantizers=Quantizers(("cpu",), candidates, measure),
    run=predict,
)
