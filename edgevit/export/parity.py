"""Whether an exported graph computes what torch computes, on real images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from edgevit.errors import ParityError
from edgevit.images.preprocessing import Preprocessing

TOLERANCE = 1e-4


def parity(
    exported: Path, module: nn.Module, pixels: npt.NDArray[np.uint8], preprocessing: Preprocessing
) -> float:
    """The largest output difference between an exported graph (.onnx or .pt2) and torch.

    `pixels` are uint8 [n, height, width, channels]. Raises ParityError when it exceeds 1e-4 times the largest
    output (at least 1).
    """
    inputs = preprocessing.normalise(pixels)
    with torch.inference_mode():
        expected = module(torch.from_numpy(inputs)).numpy()
    found = run_onnx(exported, inputs) if exported.suffix == ".onnx" else run_program(exported, inputs)
    difference = float(np.abs(found - expected).max())
    allowed = TOLERANCE * max(1.0, float(np.abs(expected).max()))
    if not difference <= allowed:
        raise ParityError(
            f"the exported {exported.suffix} does not compute what the model computes",
            f"an output moved by {difference:.2g}, more than {allowed:.2g}",
            "Report this model",
        )
    return difference


def run_onnx(path: Path, inputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Outputs [n, classes] of an ONNX file for inputs [n, channels, height, width], one image at a time."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: image[None]})[0] for image in inputs])


def run_program(path: Path, inputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Outputs [n, classes] of a saved program for inputs [n, channels, height, width], one image at a time."""
    module = torch.export.load(path).module()
    images = torch.from_numpy(np.ascontiguousarray(inputs.transpose(0, 2, 3, 1)))
    with torch.inference_mode():
        return torch.cat([module(image[None]) for image in images]).numpy()
