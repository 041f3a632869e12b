"""ONNX Runtime on a CPU: the simplified graph, quantized by the vendor's own tools if asked."""

from __future__ import annotations

import logging
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgevit.backends.protocol import CompileRequest, CompileResult, Handover
from edgevit.files import atomic_path
from edgevit.preprocessing import Preprocessing
from edgevit.progress import Progress

HANDOVER: Handover = "onnx"
TAKES_RANGES = False


def tools() -> dict[str, str]:
    """Versions that decide an artefact."""
    return {"onnxruntime": version("onnxruntime"), "onnx": version("onnx")}


def compile(request: CompileRequest, progress: Progress) -> CompileResult:
    """Copy or quantize the graph and run it on the host's CPU.

    int8 is ONNX Runtime's own recommendation for transformers: dynamic quantization of weights and matmuls.
    """
    assert request.onnx is not None
    artefact = request.out / "model.onnx"
    with atomic_path(artefact) as staging:
        if request.plan.quantized:
            quantize_dynamic(request.onnx, staging)
        else:
            shutil.copyfile(request.onnx, staging)
    logits = None
    if request.evaluate is not None:
        logits = request.out / "logits.npy"
        pixels = np.load(request.evaluate, mmap_mode="r", allow_pickle=False)
        np.save(logits, run(artefact, pixels, request.preprocessing, progress))
    return CompileResult(artefact, logits, "host CPU", tools())


def quantize_dynamic(source: Path, out: Path) -> None:
    """ONNX Runtime's dynamic int8: weights per channel, activations measured at run time."""
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization import quantize_dynamic as vendor

    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it advises a pre-processing step that is already done
    try:
        vendor(
            source,
            out,
            weight_type=QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=["MatMul", "Gemm"],
        )
    finally:
        root.setLevel(level)


def run(
    model: Path, pixels: npt.NDArray[np.uint8], preprocessing: Preprocessing, progress: Progress
) -> npt.NDArray[np.float32]:
    """Logits float32 [n, classes] for pixels uint8 [n, height, width, channels]."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    rows: list[Any] = []
    for number, image in enumerate(pixels):
        rows.append(session.run(None, {name: preprocessing.normalise(np.asarray(image)[None])})[0][0])
        progress.advance(number + 1, len(pixels))
    return np.stack(rows).astype(np.float32)
