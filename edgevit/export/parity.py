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
from edgevit.metrics.any_order import in_order
from edgevit.models.outputs import parts_of, rows_of

Array = npt.NDArray[np.float32]
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
    expected = [part.numpy() for part in parts_of(given)]
    if exported.suffix != ".onnx":
        return largest_move(run_program(exported, inputs), expected, module, inputs, exported)
    try:
        return largest_move(run_onnx(exported, inputs), expected, module, inputs, exported)
    except ParityError as error:
        try:
            rows = Graph(onnx.load(exported)).outputs(torch.from_numpy(inputs), keep).numpy()
        except Exception:  # of an operation that torch is not told how to compute
            raise error from None
        return largest_move(rows, expected, module, inputs, exported)


def largest_move(
    rows: Array, expected: list[Array], module: nn.Module, inputs: npt.NDArray[np.float32], exported: Path
) -> float:
    """The largest difference between outputs [n, values] side by side and each output as expected, [n, ...].

    Raises ParityError where one is more than allowed.
    """
    ends = np.cumsum([part[0].size for part in expected])[:-1]
    found = [
        part.reshape(right.shape) for part, right in zip(np.split(rows, ends, axis=1), expected, strict=True)
    ]
    wrong = beyond(found, expected, 0.0)
    ranking = wrong is not None and ranks(exported)
    if ranking:
        found = as_expected(found, expected)
        wrong = beyond(found, expected, 0.0)
    if wrong is not None:
        wrong = beyond(found, expected, ROUNDINGS * own_rounding(module, inputs, expected, ranking=ranking))
    if wrong is not None:
        raise ParityError(
            f"the exported {exported.suffix} does not compute what the model computes",
            "an output moved by {:.2g}, more than {:.2g}".format(*wrong),
            "Report this model",
        )
    return max(apart(*pair) for pair in zip(found, expected, strict=True))


def beyond(found: list[Array], expected: list[Array], least: float) -> tuple[float, float] | None:
    """How far the first output is off that is too far, and how far it may be, `least` or more; None for none."""
    for pair in zip(found, expected, strict=True):
        allowed = max(allowed_for(pair[1]), least)
        if not apart(*pair) <= allowed:
            return apart(*pair), allowed
    return None


def apart(found: Array, expected: Array) -> float:
    """The largest difference of an output's values."""
    return float(np.abs(found - expected).max())


def ranks(exported: Path) -> bool:
    """Whether a graph takes places by their rank, as detectors do that take the likeliest for queries.

    Two that score nearly the same may then change places by a rounding.
    """
    if exported.suffix == ".onnx":
        return any(
            node.op_type == "TopK" for node in onnx.load(exported, load_external_data=False).graph.node
        )
    return any("topk" in str(node.target) for node in torch.export.load(exported).graph.nodes)


def as_expected(found: list[Array], expected: list[Array]) -> list[Array]:
    """Outputs [n, rows, ...] with their rows in the order of those expected; those of as many rows go together."""
    ordered = dict(enumerate(found))
    for count in {part.shape[1] for part in expected if part.ndim > 2}:
        chosen = [place for place, part in enumerate(expected) if part.ndim > 2 and part.shape[1] == count]
        ours, theirs = (
            np.concatenate([parts[place].reshape(len(parts[place]), count, -1) for place in chosen], 2)
            for parts in (found, expected)
        )
        ordered |= in_order({place: found[place] for place in chosen}, ours, theirs)
    return list(ordered.values())


def own_rounding(
    module: nn.Module, inputs: npt.NDArray[np.float32], expected: list[Array], *, ranking: bool
) -> float:
    """How far float32 itself moves the outputs: some untrained networks multiply every rounding.

    0 where the module has no float64.
    """
    try:
        with torch.inference_mode():
            given = copy.deepcopy(module).double()(torch.from_numpy(inputs).double())
    except Exception:  # of whatever the user's module does by type
        return 0.0
    parts = [part.numpy() for part in parts_of(given)]
    pairs = zip(as_expected(parts, expected) if ranking else parts, expected, strict=True)
    return max(apart(*pair) for pair in pairs)


def allowed_for(expected: Array) -> float:
    """How far an output [n, ...] may be off: of a map's many values the worst is further off."""
    tolerance = TOLERANCE if expected[0].size <= FEW else OF_MANY
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
