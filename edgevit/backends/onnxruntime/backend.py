"""ONNX Runtime on a CPU: the simplified graph, quantized by the vendor's own tools if asked."""

from __future__ import annotations

import shutil
from importlib.metadata import version
from pathlib import Path

import numpy as np

from edgevit.backends.onnxruntime.costly import sparing
from edgevit.backends.onnxruntime.host import in_turns, run
from edgevit.backends.onnxruntime.on_board import ON_BOARD
from edgevit.backends.onnxruntime.recipes import CANDIDATES, OnnxOptions, quantize
from edgevit.backends.protocol import Backend, CompileRequest, CompileResult, Outputs, Pixels
from edgevit.backends.trials import Candidate, Quantizers, Trial, TrialRequest, Trials
from edgevit.errors import InputError
from edgevit.files import atomic_path
from edgevit.images.preprocessing import Preprocessing
from edgevit.progress import Progress
from edgevit.targets.profiles import Board

# Releases with the opset and the version of the file format that they brought.
RELEASES = (
    ("1.12", 17, 8),
    ("1.14", 18, 8),
    ("1.15", 19, 9),
    ("1.17", 20, 9),
    ("1.18", 21, 10),
    ("1.20", 22, 10),
)


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
            quantize(request.onnx, staging, options, request.calibration, request.preprocessing)
        else:
            shutil.copyfile(request.onnx, staging)
        oldest = described(staging, request.description)
    outputs = None
    if request.evaluate is not None:
        outputs = request.out / "outputs.npy"
        pixels = np.load(request.evaluate, mmap_mode="r", allow_pickle=False)
        np.save(outputs, run(artefact, pixels, request.preprocessing, progress))
    details = {"needs_at_least": {"onnxruntime": oldest}}
    return CompileResult(artefact, outputs, "host CPU", tools(request.board), details)


def described(model: Path, description: str) -> str:
    """Write a description into a model's own metadata; the first release of ONNX Runtime that reads the model.

    From onnxruntime.ai/docs/reference/compatibility.html.
    """
    import onnx

    graph = onnx.load(str(model))
    if description:
        graph.metadata_props.add(key="edgevit", value=description)
        onnx.save(graph, str(model))
    opset = max((each.version for each in graph.opset_import if each.domain in ("", "ai.onnx")), default=0)
    for release, newest_opset, newest_ir in RELEASES:
        if opset <= newest_opset and graph.ir_version <= newest_ir:
            return release
    return version("onnxruntime")


def measure(request: TrialRequest, progress: Progress) -> Trials:
    """Make every candidate, run all on the held-out images, and time all in turns on one thread."""
    held_out = np.load(request.held_out, mmap_mode="r", allow_pickle=False)
    models: dict[str, Path | str] = {}
    for number, candidate in enumerate(request.candidates):
        progress.advance(number, len(request.candidates), f"try {candidate.label}")
        model = request.out / f"{number}.onnx"
        try:
            options = OnnxOptions(**candidate.options)
            quantize(request.source_model, model, options, request.fit, request.preprocessing)
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
    quantizers=Quantizers(("cpu",), candidates, measure, sparing),
    run=predict,
)
