"""Whether int8 loses more than its own arithmetic has to, where it loses much: asked of another quantizer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgevit.backends.proof import relative_error
from edgevit.backends.registry import backend_of
from edgevit.conversion.proof import percent
from edgevit.run.step import Step
from edgevit.targets.precisions import quantized
from edgevit.targets.profiles import Board

if TYPE_CHECKING:
    from edgevit.conversion.artefacts import Conversion

SUSPICIOUS = 0.3  # relative error of an int8 artefact's outputs from which on it is looked into
IMAGES = 16
# Two quantizers of one graph differ: by a factor, and by what either costs at least.
TIMES, MORE = 1.5, 0.1


def predicted(conversion: Conversion, board: Board, precision: str) -> Step | None:
    """What fake quantization of the same graph does to its outputs, beside what the artefact's int8 does.

    ONNX Runtime quantizes every operation, weights by channel, activations by the extremes on the same calibration
    images, and runs it in float. None where int8 keeps the outputs, where the plan has ranges of its own (they were
    judged by such a prediction), or where ways to quantize are chosen by measurement.
    """
    backend = backend_of(board)
    if not quantized(precision) or backend.prove is None or conversion.plan(board, precision).ranges:
        return None
    compiled, exported = conversion.compiled(board, precision), conversion.exported(board, precision)
    if not compiled.path("outputs.npy").exists():
        return None
    outputs, expected, pixels = compared(conversion, compiled, exported)
    error = error_of(conversion, outputs, expected)
    if error <= SUSPICIOUS:
        return None
    inputs = {"export": exported.key, "compiled": compiled.key, "calibration": conversion.probe.key}

    def make(folder: Path) -> dict[str, Any]:
        from edgevit.backends.onnxruntime.host import run
        from edgevit.backends.onnxruntime.recipes import fake_quantize

        conversion.progress.stage(
            f"{board.id} {precision}: ask fake quantization whether int8 has to lose this much"
        )
        model = folder / "fake.onnx"
        calibration = conversion.probe.path("pixels.npy")
        try:
            fake_quantize(exported.path("model.onnx"), model, calibration, conversion.preprocessing)
            found = run(model, pixels, conversion.preprocessing, conversion.progress)
        except Exception:  # the vendor's tools raise whatever they like
            return {"error": finite(error), "predicted": None}
        finally:
            model.unlink(missing_ok=True)
        return {"error": finite(error), "predicted": finite(error_of(conversion, found, expected))}

    return conversion.run.step(f"int8-{board.id}", inputs, make)


def error_of(conversion: Conversion, found: Any, expected: Any) -> float:
    """The relative error of all outputs; what is a set is compared in one order."""
    pair = conversion.outputs.side_by_side(found, expected)
    ours, theirs = (np.concatenate([part.reshape(len(part), -1) for part in parts], 1) for parts in pair)
    return relative_error(ours, theirs)


def finite(error: float) -> float:
    """An error as JSON knows numbers."""
    return min(error, 1e9)


def compared(conversion: Conversion, compiled: Step, exported: Step) -> tuple[Any, Any, Any]:
    """The artefact's outputs on a few images, the float model's, and the images' pixels."""
    from edgevit.conversion.reference import EXPECTED

    outputs = np.load(compiled.path("outputs.npy"))[:IMAGES]
    if conversion.validation is not None and conversion.reference is not None:
        images, float_outputs = conversion.validation, conversion.reference.path("outputs.npy")
    else:
        images, float_outputs = conversion.probe, exported.path(EXPECTED)
    pixels = np.load(images.path("pixels.npy"), mmap_mode="r")[: len(outputs)]
    return outputs, np.load(float_outputs)[: len(outputs)], pixels


def notes(conversion: Conversion, board: Board, precision: str) -> list[str]:
    """Who is to blame for an int8 artefact that computes something else."""
    found = predicted(conversion, board, precision)
    if found is None:
        return []
    ours, theirs = found.metrics["error"], found.metrics["predicted"]
    if theirs is None:  # that quantizer can't do the graph
        return []
    predicted_by = f"fake quantization of the same graph by {percent(theirs)}"
    if ours <= TIMES * theirs + MORE:
        return [
            f"int8 itself does not bear this model: its outputs are off by {percent(ours)}, {predicted_by}; "
            "use --precision float, or train for int8"
        ]
    return [
        f"int8 does not have to lose this much: the artefact's outputs are off by {percent(ours)}, {predicted_by}; "
        "use --precision float, or another release of the converter"
    ]
