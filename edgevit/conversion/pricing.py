"""What a target's compiler says a graph costs: how rewrites are chosen."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from edgevit.backends.protocol import CompileRequest
from edgevit.backends.registry import backend_of
from edgevit.images.preprocessing import Preprocessing
from edgevit.placement.estimate import Cost, cost_of
from edgevit.progress import QUIET
from edgevit.quantize.plan import PrecisionPlan
from edgevit.targets.profiles import Board

Price = Callable[[onnx.ModelProto], Cost]


def price_of(
    board: Board, precision: str, preprocessing: Preprocessing, pixels: npt.NDArray[np.uint8], folder: Path
) -> Price | None:
    """What one graph costs on a board in a precision; None where its backend can't tell.

    `pixels` [n, height, width, channels] are what int8 is calibrated on: costs don't depend on them. Milliseconds
    of the estimate; where there is none for the board, the layers that leave the NPU, then cycles.
    """
    place = backend_of(board).place
    if place is None:
        return None

    def price(graph: onnx.ModelProto) -> Cost:
        work = Path(tempfile.mkdtemp(prefix="price-", dir=folder))
        try:
            onnx.save(graph, work / "model.onnx")
            np.save(work / "pixels.npy", pixels)
            request = CompileRequest(
                onnx=work / "model.onnx",
                vendor_float=None,
                plan=PrecisionPlan(precision),
                board=board,
                preprocessing=preprocessing,
                calibration=work / "pixels.npy",
                evaluate=None,
                out=work,
            )
            found = place(request, QUIET)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        return cost_of(found, board)

    return price
