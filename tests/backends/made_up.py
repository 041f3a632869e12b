"""A backend that no vendor makes: its artefact is the float graph itself, and it answers at once.

It has every part that a real one has: options, ranges, a simulator, a runtime for boards.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgevit.backends.onnxruntime import host
from edgevit.backends.onnxruntime.on_board import ON_BOARD
from edgevit.backends.protocol import Backend, CompileRequest, CompileResult, Outputs, Simulator
from edgevit.backends.rknn.backend import FUSION
from edgevit.errors import ToolchainError
from edgevit.images.preprocessing import Preprocessing
from edgevit.progress import Progress
from edgevit.quantize.plan import PrecisionPlan
from edgevit.targets.profiles import Board, Npu, Strict

NAME, SUFFIX = "made-up", ".copied"
HOW = "stand-in"
ENOUGH = 6  # tensors in 16 bits from which the simulator answers like the float model


class Options(Strict):
    """`fails`: why the compiler dies of every model, if it does."""

    fails: str | None = None


def board(identifier: str = "mine", **changes: Any) -> Board:
    """A profile for it, with an NPU that has a 16-bit type."""
    npu = Npu(target="made-up", sixteen_bit="float16", macs_per_cycle_int8=1024, max_conv_stride=7, **changes)
    return Board(
        id=identifier,
        name="Made up",
        backend=NAME,
        source="a test",
        rewrites=("fold-layer-scale", "fold-norms", "fold-attention-scale"),
        npu=npu,
    )


def make(request: CompileRequest, progress: Progress) -> CompileResult:
    """Copy the graph, run it with ONNX Runtime."""
    options: Options = MADE_UP.options_of(request.plan.options)
    if options.fails:
        raise ToolchainError("made-up failed", options.fails, "Choose another target")
    assert request.onnx is not None
    artefact, outputs = request.out / f"model{SUFFIX}", request.out / "outputs.npy"
    shutil.copyfile(request.onnx, artefact)
    if request.evaluate is None:
        return CompileResult(artefact, None, HOW, tools(request.board))
    np.save(outputs, run(artefact, np.load(request.evaluate), request.preprocessing, progress))
    return CompileResult(artefact, outputs, HOW, tools(request.board))


def run(artefact: Path, pixels: Any, preprocessing: Preprocessing, progress: Progress) -> Outputs:
    return host.run(artefact, pixels, preprocessing, progress)


@contextmanager
def simulations(request: CompileRequest, progress: Progress) -> Iterator[Simulator]:
    """Float outputs plus an error that ends once enough tensors are in 16 bits."""
    assert request.onnx is not None and request.evaluate is not None
    exact = run(request.onnx, np.load(request.evaluate), request.preprocessing, progress)

    def simulate(plan: PrecisionPlan) -> Outputs:
        error = 0.0 if len(plan.sixteen_bit) >= ENOUGH else 20.0
        return exact + error * np.random.default_rng(0).normal(size=exact.shape).astype(np.float32)

    yield Simulator(simulate, frozenset(request.plan.ranges))


@contextmanager
def never(request: CompileRequest, progress: Progress) -> Iterator[Simulator]:
    """A simulator that every plan fails in."""
    with simulations(request, progress) as simulator:
        yield replace(simulator, outputs=lambda plan: simulator.outputs(PrecisionPlan()))


def tools(board: Board) -> dict[str, str]:
    return {"made-up": "1.0"}


MADE_UP = Backend(
    name=NAME,
    suffix=SUFFIX,
    device="a board that nobody made",
    source="a test",
    export_format="onnx",
    options=Options,
    tools=tools,
    compile=make,
    on_board=ON_BOARD,
    takes_ranges=True,
    fusion=FUSION,
    simulations=simulations,
    run=run,
    for_npu=True,
)
