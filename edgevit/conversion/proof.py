"""Proof that a target's compiler computes the model, and the repair where it does not."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgevit.backends.proof import CLEARLY_WRONG, Probe, Proof, relative_error
from edgevit.backends.protocol import CompileRequest, CompileResult
from edgevit.backends.registry import backend_of
from edgevit.conversion.plans import board_key, plan_of
from edgevit.errors import ToolchainError
from edgevit.files import publish
from edgevit.outputs.output import Outputs
from edgevit.quantize.plan import PrecisionPlan
from edgevit.run.step import Step
from edgevit.targets.precisions import FLOAT, quantized
from edgevit.targets.profiles import Board

if TYPE_CHECKING:
    from edgevit.conversion.artefacts import Conversion

UNKNOWN = "for an unknown reason"


def proves(conversion: Conversion, board: Board) -> bool:
    """Whether a board's compiler is proved: it can build in float, and not only cost is asked for."""
    backend = backend_of(board)
    able = backend.convert_float is not None or backend.prove is not None
    return able and conversion.job.images and float_platform(board)


def float_platform(board: Board) -> bool:
    """Whether a board, or one whose compiler does the same to a graph, takes float."""
    return FLOAT in board.precisions or (board.npu is not None and board.npu.proved_as is not None)


def proved(conversion: Conversion, board: Board, precision: str) -> Step | None:
    """Whether the compiler's float build of the graph computes it, repaired where it does not.

    None where it isn't proved. Where a float artefact of the same graph is asked for, the build is that artefact
    (`made`), with its outputs on the validation images.
    """
    backend = backend_of(board)
    prove = backend.prove
    if not proves(conversion, board):
        return None
    if prove is None:
        return conversion.vendor_float(board, precision)
    exported = conversion.exported(board, precision)
    plan = plan_of(conversion.job, FLOAT, backend)
    asked = FLOAT in conversion.job.precisions and not conversion.in_shards
    wanted = asked and conversion.exported(board, FLOAT).key == exported.key
    validation = conversion.validation if wanted else None
    inputs = {
        "export": exported.key,
        "images": conversion.probe.key,
        "validation": validation.key if validation else None,
        "plan": plan.to_json(),
        "board": board_key(board),
        "artefact": conversion.description(board) if wanted else False,
        "tools": backend.tools(board),
    }

    def make(folder: Path) -> dict[str, Any]:
        conversion.progress.stage(f"{board.id}: prove that the compiler keeps the function")
        with probe_of(conversion, exported, folder) as probe:
            request = CompileRequest(
                onnx=exported.path("model.onnx"),
                vendor_float=None,
                plan=plan,
                board=board,
                preprocessing=conversion.preprocessing,
                calibration=probe.pixels,
                evaluate=validation.path("pixels.npy") if validation else None,
                out=folder,
                description=conversion.description(board) if wanted else "",
            )
            try:
                found = prove(request, probe, conversion.progress)
            except ToolchainError as error:
                if not quantized(precision):
                    raise
                # int8 may build where float does not
                found = Proof(len(np.load(probe.outputs)), error=0.0, reason=str(error))
        if found.made is not None and not wanted:
            found.made.artefact.unlink()
            found = replace(found, made=None)
        return found.to_json()

    return conversion.run.step(f"prove-{board.id}", inputs, make)


@contextmanager
def probe_of(conversion: Conversion, exported: Step, folder: Path) -> Iterator[Probe]:
    """The probe of an export in a folder, as long as it is needed."""
    from edgevit.conversion.reference import EXPECTED

    expected = np.load(exported.path(EXPECTED))
    sizes = tuple(output.size for output in conversion.outputs.each)
    probe = Probe(folder / "probe.npy", folder / "probe-outputs.npy", sizes)
    np.save(probe.pixels, np.load(conversion.probe.path("pixels.npy"), mmap_mode="r")[: len(expected)])
    np.save(probe.outputs, expected)
    yield probe
    for path in (probe.pixels, probe.outputs):
        path.unlink()


def closeness(result: CompileResult, probe: Probe, outputs: Outputs) -> dict[str, Any] | None:
    """How close an artefact's outputs on a probe are to the float model's; None where it wasn't run."""
    if result.outputs is None:
        return None
    found, expected = np.load(result.outputs), np.load(probe.outputs)
    error = relative_error(found, expected, probe.sizes)
    return {
        "images": len(found),
        "kept": kept_of(found, expected, outputs),
        "error": error if math.isfinite(error) else None,
    }


def kept_of(found: Any, expected: Any, outputs: Outputs) -> int | None:
    """How many predictions an artefact keeps; None where the model makes none, or the artefact gave no numbers."""
    if not outputs.first.means.classifies or not np.isfinite(found).all():
        return None
    return round(outputs.difference(found, expected).agreement * len(found))


def probe_notes(compiled: Step) -> list[str]:
    """What is known of an artefact where nobody gave validation images."""
    found = compiled.metrics.get("probe")
    if found is None:
        return []
    off = percent(math.inf if found["error"] is None else found["error"])
    kept = (
        ""
        if found["kept"] is None
        else f" the artefact keeps {found['kept']} of {found['images']} predictions,"
    )
    return [f"no validation images: on its probe{kept} its outputs are off by {off}"]


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
    refuse_wrong(proof, board, precision)
    own = dict(plan.options.get(name, {}))
    for option, value in proof.metrics["options"].items():
        listed = isinstance(value, list)  # what the plan leaves out by itself stays out
        own[option] = list(dict.fromkeys([*own.get(option, ()), *value])) if listed else value
    return replace(plan, options={**plan.options, name: own}) if own else plan


def own_arithmetic(found: Mapping[str, Any]) -> str:
    """Told where the float type itself, and no compiler, moves a model's outputs."""
    return (
        f"float16 alone moves this model's outputs by {percent(found['own_error'])}, the compiled graph is off by "
        f"{percent(found['error'])}: read the accuracy"
    )


def refuse_wrong(proof: Step, board: Board, precision: str) -> None:
    """Raises ToolchainError for a compiler that does not compute the model; of int8 only where that is clear."""
    found, off = proof.metrics, wrong_by(proof)
    if found["right"] or quantized(precision) and (found["overflows"] or off <= CLEARLY_WRONG):
        return
    if found["overflows"]:
        raise ToolchainError(
            f"{board.id}'s float type does not hold this model's values",
            found["reason"],
            "Use --precision int8 there, or train with smaller weights before that layer",
        )
    why = found["reason"] or UNKNOWN
    raise ToolchainError(
        f"{board.id}'s compiler does not compute this model",
        f"in float its outputs err by {percent(off)} ({why}), whatever is left out of the build",
        f"Send {proof.path('for-vendor')} to the vendor, or choose another target",
    )


def notes(conversion: Conversion, board: Board, precision: str) -> list[str]:
    """What broke the compiled graph, what mended it, and what that costs."""
    proof = proved(conversion, board, precision)
    if proof is None:
        return []
    found = proof.metrics
    if not found["right"]:
        off = percent(wrong_by(proof))
        return [
            f"in float the compiled graph is off by {off} ({found['reason'] or UNKNOWN}): read the accuracy"
        ]
    if not found["left_out"]:
        return [own_arithmetic(found)] if found["own_error"] else []
    as_built = found["reason"] or f"outputs off by {percent(wrong_by(proof))}"
    npu = board.npu
    where = f" as {npu.proved_as}" if npu is not None and npu.proved_as else ""
    cost = ""
    if found["cycles"] is not None:
        before, after = found["cycles"]
        cost = f", at {100 * (after / max(before, 1) - 1):+.1f} % cycles"
    return [
        f"the compiler's {' and '.join(found['left_out'])} broke this model ({as_built} in float{where}); built "
        f"without it they are off by {percent(found['repaired'])}{cost}"
    ]


def wrong_by(proof: Step) -> float:
    """The relative error as built; infinite where no number came out."""
    error = proof.metrics["error"]
    return math.inf if error is None else float(error)


def percent(error: float) -> str:
    """A relative error in words."""
    return f"{100 * error:.2g} %" if math.isfinite(error) else "more than any number"
