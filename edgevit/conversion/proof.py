"""Proof that a target's compiler computes the model, and the repair where it does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgevit.backends.proof import CLEARLY_WRONG, Probe, Proof
from edgevit.backends.protocol import CompileRequest
from edgevit.backends.registry import backend_of
from edgevit.conversion.plans import board_key, existing, plan_of
from edgevit.errors import ToolchainError
from edgevit.files import publish
from edgevit.progress import Progress
from edgevit.quantize.plan import PrecisionPlan
from edgevit.run.step import Step
from edgevit.targets.precisions import FLOAT, quantized
from edgevit.targets.profiles import Board

if TYPE_CHECKING:
    from edgevit.conversion.artefacts import Conversion


def prover(conversion: Conversion, board: Board) -> Callable[[CompileRequest, Probe, Progress], Proof] | None:
    """How a board's backend proves a graph; None where it can't, without float, or where only cost is asked for."""
    told = conversion.job.images and FLOAT in board.precisions
    return backend_of(board).prove if told else None


def proved(conversion: Conversion, board: Board, precision: str) -> Step | None:
    """Whether the compiler's float build of the graph computes it, repaired where it does not.

    None where there is no `prover`. Where a float artefact of the same graph is asked for, the build is that
    artefact (`made`), with its outputs on the validation images.
    """
    prove = prover(conversion, board)
    if prove is None:
        return None
    backend, exported = backend_of(board), conversion.exported(board, precision)
    vendor_float = conversion.vendor_float(board, precision)
    plan = plan_of(conversion.job, FLOAT, backend)
    wanted = FLOAT in conversion.job.precisions and conversion.exported(board, FLOAT).key == exported.key
    validation = conversion.validation if wanted else None
    inputs = {
        "export": exported.key,
        "images": conversion.probe.key,
        "validation": validation.key if validation else None,
        "plan": plan.to_json(),
        "board": board_key(board),
        "artefact": wanted,
        "tools": backend.tools(),
    }

    def make(folder: Path) -> dict[str, Any]:
        from edgevit.conversion.reference import EXPECTED

        conversion.progress.stage(f"{board.id}: prove that the compiler keeps the function")
        expected = np.load(exported.path(EXPECTED))
        probe = Probe(folder / "probe.npy", folder / "probe-outputs.npy")
        np.save(probe.pixels, np.load(conversion.probe.path("pixels.npy"), mmap_mode="r")[: len(expected)])
        np.save(probe.outputs, expected)
        request = CompileRequest(
            onnx=existing(exported.path("model.onnx")),
            vendor_float=vendor_float.path(vendor_float.metrics["file"]) if vendor_float else None,
            plan=plan,
            board=board,
            preprocessing=conversion.preprocessing,
            calibration=probe.pixels,
            evaluate=validation.path("pixels.npy") if validation else None,
            out=folder,
        )
        try:
            found = prove(request, probe, conversion.progress)
        except ToolchainError as error:
            if not quantized(precision):
                raise
            found = Proof(len(expected), error=0.0, unknown=str(error))  # int8 may build where float does not
        for path in (probe.pixels, probe.outputs):
            path.unlink()
        if found.made is not None and not wanted:
            found.made.artefact.unlink()
            found = replace(found, made=None)
        return found.to_json()

    return conversion.run.step(f"prove-{board.id}", inputs, make)


def take_proved(proof: Step | None, folder: Path) -> dict[str, Any] | None:
    """Link the artefact that a proof made, and its outputs, into a folder; its record, None where none was made."""
    made = proof.metrics.get("made") if proof is not None else None
    if proof is None or made is None:
        return None
    for name in (made["artefact"], "outputs.npy"):
        if proof.path(name).exists():
            publish(proof.path(name), folder / name)
    return dict(made)


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
            f"in float its outputs err by {100 * proof.metrics['error']:.2g} %, whatever is left out of the build",
            f"Send {proof.path('for-vendor')} to the vendor, or choose another target",
        )
    own = dict(plan.options.get(name, {}))
    for option, value in proof.metrics["options"].items():
        listed = isinstance(value, list)  # what the plan leaves out by itself stays out
        own[option] = list(dict.fromkeys([*own.get(option, ()), *value])) if listed else value
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
