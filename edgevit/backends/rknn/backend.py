"""Rockchip NPUs through rknn-toolkit2: build, read the compiler's layer table, simulate.

A plan with ranges or 16-bit tensors of its own is written into the toolkit's table between its hybrid steps.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from edgevit.backends.proof import Probe, Proof
from edgevit.backends.protocol import (
    BUILD_SECONDS,
    Backend,
    CompileRequest,
    CompileResult,
    Outputs,
    Simulator,
    time_limit_s,
)
from edgevit.backends.rknn import hybrid
from edgevit.backends.rknn.build import Build, build
from edgevit.backends.rknn.log import parse_log
from edgevit.backends.rknn.on_board import ON_BOARD, oldest
from edgevit.errors import InputError
from edgevit.placement.layers import Placement
from edgevit.progress import Progress
from edgevit.quantize.fusion import Fusion
from edgevit.quantize.plan import PrecisionPlan
from edgevit.targets.profiles import Board, Strict
from edgevit.toolchains import environment

HOW = "vendor simulator"

# The compiler fuses the addition after proj and fc2 and the GELU after fc1 into the convolution, so that its
# result is rounded once, after the addition or GELU. In 16 bits those are operations of their own, and the
# convolution's int8 result is rounded before them. The attention product holds its scores and weights inside.
FUSION = Fusion(
    into={"proj": "residual1", "fc1": "gelu", "fc2": "residual2"},
    inside={"scores": "attention", "softmax": "attention"},
)


class RknnOptions(Strict):
    """`algorithm`: the toolkit's range estimator, used where edgevit gives no ranges of its own.

    `disable_rules`: fusion rules of the toolkit to leave out. `optimization_level`: the toolkit's own is 3.
    """

    algorithm: Literal["normal", "mmse", "kl_divergence"] = "normal"
    disable_rules: tuple[str, ...] = ()
    optimization_level: int | None = Field(None, ge=0, le=3)


WARNING = re.compile(r"[WE] (?:RKNN: \[[0-9:.]+\] ?)?(.*)")
QUOTED = re.compile(r"'[^']*'")
# Printed for every vision transformer, with no effect on the result.
HARMLESS = re.compile(
    r"need parameter qtype|is already in IndependentMap|Unkown op target: 0|TRANSPOSE: mismatch input dims"
    r"|temperate env|only support mini rknn model|default (?:in|out)put dtype of|^build: =+ WARN"
    r"|^rknn-toolkit2 version|disable_rules=|The output shape of"
    # A plan's ranges are meant to differ from the toolkit's.
    r"|^hybrid_quantization_step2: +(?:The \(min|from:|to  :|max =|min =)"
)


def tools(board: Board) -> dict[str, str]:
    """The toolchain's lock. Raises ToolchainError if it isn't installed."""
    environment.python_of(board.toolchain)
    return {"lock": environment.digest(board.toolchain)}


def make(request: CompileRequest, progress: Progress) -> CompileResult:
    """Make a .rknn that takes uint8 pixels [1, height, width, channels]; run it on `request.evaluate`.

    mean and std are folded into it.
    """
    artefact, outputs = request.out / "model.rknn", request.out / "outputs.npy"
    arguments = worker_arguments(request, artefact, outputs)
    timeout_s = time_limit_s(request)
    jobs = request.out / "jobs"
    if request.plan.ranges or request.plan.sixteen_bit:
        begun = hybrid.begin(request, arguments, jobs / "calibrate", progress, timeout_s)
        built = hybrid.finish(begun, request.plan, arguments, jobs / "plan", progress, timeout_s)
        begun.remove()  # as large as the model itself
    else:
        built = build(request.board.toolchain, "build", arguments, jobs, progress, timeout_s)
    return made(request, built, artefact, outputs, progress)


def made(
    request: CompileRequest, built: Build, artefact: Path, outputs: Path, progress: Progress
) -> CompileResult:
    """What a build made. Details: `placement` (layers, cycles, memory), `disabled_rules`, `warnings`,
    `peak_bytes` of the worker, `needs_at_least` (versions on the board), `fixed_addresses` (whether a rebuild
    usually gives the same bytes; without, unused fields hold other host addresses).
    """
    warnings = warnings_in(built.log)
    for text in warnings:
        progress.warn(f"{request.board.name}: {text}")
    return CompileResult(
        artefact=artefact,
        outputs=outputs if request.evaluate else None,
        how=HOW,
        tools={"rknn-toolkit2": built.result["toolkit"]},
        details={
            "placement": parse_log(built.log).to_json(),
            "disabled_rules": list(built.disabled_rules),
            "warnings": warnings,
            "peak_bytes": built.result["peak_bytes"],
            "needs_at_least": oldest(built.result["toolkit"]),
            "fixed_addresses": built.result["addresses"] == "fixed",
        },
    )


@contextmanager
def simulations(request: CompileRequest, progress: Progress) -> Iterator[Simulator]:
    """Gives the toolkit's simulator of many plans for one model, on `request.evaluate`.

    The model is read and calibrated once; what that takes is removed at the end.
    """
    arguments = worker_arguments(request, request.out / "model.rknn", request.out / "outputs.npy")
    jobs, timeout_s = request.out / "search", time_limit_s(request)
    begun = hybrid.begin(request, arguments, jobs / "calibrate", progress, timeout_s)

    placements: dict[tuple[str, ...], Placement] = {}

    def simulate(plan: PrecisionPlan, given: Mapping[str, Any] = arguments) -> Outputs | None:
        built = hybrid.finish(begun, plan, dict(given), jobs / "plan", progress, timeout_s)
        placements[plan.sixteen_bit] = parse_log(built.log)
        return None if given["outputs"] is None else np.load(given["outputs"], allow_pickle=False)

    def outputs(plan: PrecisionPlan) -> Outputs:
        found = simulate(plan)
        assert found is not None
        return found

    def placed(plan: PrecisionPlan) -> Placement:
        if plan.sixteen_bit not in placements:  # ranges move no layer
            simulate(plan, arguments | {"evaluate": None, "outputs": None})
        return placements[plan.sixteen_bit]

    try:
        stored = frozenset(name for name, theirs in begun.found.items() if theirs)
        yield Simulator(outputs, stored, placed)
    finally:
        shutil.rmtree(jobs, ignore_errors=True)
        for name in ("artefact", "outputs"):
            if arguments[name] is not None:
                Path(arguments[name]).unlink(missing_ok=True)


def proved(request: CompileRequest, probe: Probe, progress: Progress) -> Proof:
    """Whether the toolkit's float build of a graph computes it, and the rules to leave out where it does not."""
    from edgevit.backends.rknn import repair  # brings torch and ONNX Runtime

    artefact, outputs = request.out / "model.rknn", request.out / "outputs.npy"
    arguments = worker_arguments(request, artefact, outputs)
    assert request.board.npu is not None
    arguments["target"] = request.board.npu.proved_as or arguments["target"]
    proof, built = repair.prove(request, probe, arguments, progress)
    if not proof.right:
        return proof
    return replace(proof, made=made(request, built, artefact, outputs, progress))


def place(request: CompileRequest, progress: Progress) -> Placement:
    """Where the toolkit runs each layer of a graph, and at which cost; nothing is kept."""
    arguments = worker_arguments(request, request.out / "model.rknn", request.out / "outputs.npy")
    built = build(request.board.toolchain, "build", arguments, request.out / "jobs", progress, BUILD_SECONDS)
    return parse_log(built.log)


def worker_arguments(request: CompileRequest, artefact: Path, outputs: Path) -> dict[str, Any]:
    """The request in the toolkit's terms: mean and std in 0..255, absolute paths."""
    if request.onnx is None or request.board.npu is None:
        raise InputError(
            f"cannot compile for {request.board.name}",
            "its backend needs an ONNX graph and a board profile with an [npu] section",
            "Add npu.target to the profile",
        )
    preprocessing, plan = request.preprocessing, request.plan
    options: RknnOptions = RKNN.options_of(plan.options)
    evaluate = str(request.evaluate.resolve()) if request.evaluate else None
    return {
        "model": str(request.onnx.resolve()),
        "target": request.board.npu.target,
        "mean": [value * 255 for value in preprocessing.mean],
        "std": [value * 255 for value in preprocessing.std],
        "artefact": str(artefact.resolve()),
        "quantize": plan.quantized,
        "algorithm": options.algorithm,
        "disable_rules": list(options.disable_rules),
        # Keeps the last reshape of the outputs off the CPU; they come out as [1, classes, 1, 1].
        "config": {"remove_reshape": True}
        | level_of(options.optimization_level)
        | ({"custom_string": request.description} if request.description else {}),
        "calibration": str(request.calibration.resolve()) if plan.quantized else None,
        "evaluate": evaluate,
        "outputs": str(outputs.resolve()) if evaluate else None,
    }


def level_of(level: int | None) -> dict[str, int]:
    """The toolkit's setting of an optimization level; none for its own."""
    return {} if level is None else {"optimization_level": level}


def warnings_in(log: str) -> list[str]:
    """The toolkit's warnings and errors that matter, each once; those of several tensors as one."""
    found: dict[str, list[str]] = {}
    for line in log.splitlines():
        match = WARNING.match(line)
        if match and match[1].strip() and not HARMLESS.search(match[1].strip()):
            text = match[1].strip()
            alike = found.setdefault(QUOTED.sub("''", text), [])
            if text not in alike:
                alike.append(text)
    return [first if not more else f"{first} (and {len(more)} like it)" for first, *more in found.values()]


RKNN = Backend(
    name="rknn",
    suffix=".rknn",
    device="its Rockchip NPU",
    source="rknn-toolkit2 2.5.0, operator list",
    export_format="onnx",
    options=RknnOptions,
    tools=tools,
    compile=make,
    on_board=ON_BOARD,
    takes_ranges=True,
    fusion=FUSION,
    simulations=simulations,
    prove=proved,
    place=place,
    for_npu=True,
)
