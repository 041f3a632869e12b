"""Whether an exported graph computes what torch computes, on real images."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import nn

from edgevit.errors import ParityError
from edgevit.export.graph_in_torch import Graph, keep
from edgevit.images.preprocessing import Preprocessing
from edgevit.models.outputs import parts_of, rows_of

TOLERANCE, OF_MANY = 1e-4, 1e-3
ROUNDINGS = 4  # times float32's own error in the model, where that is more
FEW = 4096  # values of an output
SMALLEST = 0.01  # largest value of an output below which differences are its rounding


def parity(
    exported: Path, module: nn.Module, pixels: npt.NDArray[np.uint8], preprocessing: Preprocessing
) -> float:
    """The largest output difference between an exported graph (.onnx or .pt2) and torch.

    `pixels` are uint8 [n, height, width, channels]. Raises ParityError when it exceeds 1e-4 times an
    output's largest value (at least 0.01), of maps 1e-3, and four times what float32 does to the model by itself.
    """
    return moved(exported, module, preprocessing.normalise(pixels))


def moved(exported: Path, module: nn.Module, inputs: npt.NDArray[np.float32]) -> float:
    """The same for inputs [n, channels, height, width].

    Where ONNX Runtime is further off than allowed, torch computes the graph: some of its kernels round more
    (InstanceNormalization by 4e-4 of the outputs in MobileViTV2), and that is not what is asked here.
    """
    with torch.inference_mode():
        given = module(torch.from_numpy(inputs))
    parts = parts_of(given)
    expected = [part.flatten(1).numpy() for part in parts]
    if exported.suffix != ".onnx":
        return largest_move(run_program(exported, inputs), expected, module, inputs, exported.suffix)
    try:
        return largest_move(run_onnx(exported, inputs), expected, module, inputs, exported.suffix)
    except ParityError as error:
        try:
            rows = Graph(onnx.load(exported)).outputs(torch.from_numpy(inputs), keep).numpy()
        except Exception:  # of an operation that torch is not told how to compute
            raise error from None
        return largest_move(rows, expected, module, inputs, exported.suffix)


def largest_move(
    rows: npt.NDArray[np.float32],
    expected: list[npt.NDArray[np.float32]],
    module: nn.Module,
    inputs: npt.NDArray[np.float32],
    kind: str,
) -> float:
    """The largest difference between outputs [n, values] side by side and each output as expected.

    Raises ParityError where one is more than allowed; `kind` is the file that it names.
    """
    ends = np.cumsum([part.shape[1] for part in expected])[:-1]
    largest = 0.0
    for found, right in zip(np.split(rows, ends, axis=1), expected, strict=True):
        difference = float(np.abs(found - right).max())
        allowed = allowed_for(right)
        if not difference <= allowed:
            allowed = max(allowed, ROUNDINGS * own_rounding(module, inputs, expected))
        if not difference <= allowed:
            raise ParityError(
                f"the exported {kind} does not compute what the model computes",
                f"an output moved by {difference:.2g}, more than {allowed:.2g}",
                "Report this model",
            )
        largest = max(largest, difference)
    return largest


def own_rounding(
    module: nn.Module, inputs: npt.NDArray[np.float32], expected: list[npt.NDArray[np.float32]]
) -> float:
    """How far float32 itself moves the outputs: some untrained networks multiply every rounding.

    0 where the module has no float64.
    """
    try:
        with torch.inference_mode():
            given = copy.deepcopy(module).double()(torch.from_numpy(inputs).double())
    except Exception:  # of whatever the user's module does by type
        return 0.0
    parts = parts_of(given)
    pairs = zip(parts, expected, strict=True)
    return max(float(np.abs(part.flatten(1).numpy() - right).max()) for part, right in pairs)


def allowed_for(expected: npt.NDArray[np.float32]) -> float:
    """How far an output [n, values] may be off: of a map's many values the worst is further off."""
    tolerance = TOLERANCE if expected.shape[1] <= FEW else OF_MANY
    return tolerance * max(SMALLEST, float(np.abs(expected).max()))


def run_onnx(path: Path, inputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Outputs [n, values] of an ONNX file for inputs [n, channels, height, width], one image at a time."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    rows = [
        np.concatenate([each.reshape(1, -1) for each in session.run(None, {name: image[None]})], 1)
        for image in inputs
    ]
    return np.concatenate(rows)


def run_program(path: Path, inputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Outputs [n, values] of a saved program for inputs [n, channels, height, width], one image at a time."""
    module = torch.export.load(path).module()
    images = torch.from_numpy(np.ascontiguousarray(inputs.transpose(0, 2, 3, 1)))
    with torch.inference_mode():
        return torch.cat([rows_of(module(image[None])) for image in images]).numpy()
