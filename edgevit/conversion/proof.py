"""Proof that a target's compiler computes the model, and the repair where it does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgevit.backends.proof import CLEARLY_WRONG, Proof
from edgevit.backends.protocol import CompileRequest
from edgevit.backends.registry import backend_of
from edgevit.errors import ToolchainError
from edgevit.progress import Progress
from edgevit.quantize.plan import PrecisionPlan
from edgevit.run.step import Step
from edgevit.targets.precisions import FLOAT, quantized
from edgevit.targets.profiles import Board

if TYPE_CHECKING:
    from edgevit.conversion.artefacts import Conversion

PROVED_IMAGES = 16


def prover(conversion: Conversion, board: Board) -> Callable[[CompileRequest, Progress], Proof] | None:
    """How a board's backend proves a graph; None where it can't, without float, or where only cost is asked for."""
    told = conversion.job.images and FLOAT in board.precisions
    return backend_of(board).prove if told else None


def proved(conversion: Conversion, board: Board, precision: str) -> Step | None:
    """Whether the compiler's float build of the graph computes it, repaired where it does not.

    None where there is no `prover`.
    """
    prove = prover(conversion, board)
    if prove is None:
        return None
    exported = conversion.exported(board, precision)
    inputs = {
        "export": exported.key,
        "images": conversion.probe.key,
        "npu": board.npu.target if board.npu else None,
        "tools": backend_of(board).tools(),
    }

    def make(folder: Path) -> dict[str, Any]:
        conversion.progress.stage(f"{board.id}: prove that the compiler keeps the function")
        pixels = np.load(conversion.probe.path("pixels.npy"), mmap_mode="r")[:PROVED_IMAGES]
        np.save(folder / "probe.npy", pixels)
        request = CompileRequest(
            onnx=exported.path("model.onnx"),
            vendor_float=None,
            plan=PrecisionPlan(),
            board=board,
            preprocessing=conversion.preprocessing,
            calibration=folder / "probe.npy",
            evaluate=folder / "probe.npy",
            out=folder,
        )
        try:
            found = prove(request, conversion.progress)
        except ToolchainError as error:
            if not quantized(precision):
                raise
            found = Proof(len(pixels), error=0.0, unknown=str(error))  # int8 may build where float does not
        (folder / "probe.npy").unlink()
        return found.to_json()

    return conversion.run.step(f"prove-{board.id}", inputs, make)


def repaired(conversion: Conversion, plan: PrecisionPlan, board: Board, precision: str) -> PrecisionPlan:
    """A plan with the options that leave out of the build what breaks this graph.

    Raises ToolchainError where nothing was found that mends it; for int8 only where it is clearly wrong.
    """
    proof, name = proved(conversion, board, precision), board.backend
    if proof is None:
        return plan
    if not proof.metrics["right"] and (not quantized(precision) or proof.metrics["error"] > CLEARLY_WRONG):
        raise ToolchainError(
            f"{board.id}'s compiler does not compute this model",
            f"in float its outputs err by {100 * proof.metrics['error']:.2g} %, whichever pass is left out",
            f"Send {proof.path('for-vendor')} to the vendor, or choose another target",
        )
    own = {**plan.options.get(name, {}), **proof.metrics["options"]}
    return replace(plan, options={**plan.options, name: own}) if own else plan


def notes(conversion: Conversion, board: Board, precision: str) -> list[str]:
    """What broke the compiled graph, what mended it, and what that costs."""
    proof = proved(conversion, board, precision)
    if proof is None:
        return []
    if not proof.metrics["right"]:
        off = f"{100 * proof.metrics['error']:.2g} %"
        return [f"in float the compiled graph is off by {off}, whichever pass is left out: read the accuracy"]
    if not proof.metrics["left_out"]:
        return []
    found, (before, after) = proof.metrics, proof.metrics["cycles"]
    return [
        f"the compiler's {' and '.join(found['left_out'])} broke this model (outputs off by "
        f"{100 * found['error']:.2g} % in float); built without it they are off by "
        f"{100 * found['repaired']:.2g} %, at {100 * (after / max(before, 1) - 1):+.1f} % cycles"
    ]
