"""What a backend is: one `Backend` object that holds every fact edgevit needs about one vendor's tools.

Shared code asks a backend's object for a property and never compares its name; `registry` holds the objects.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from edgevit.backends.proof import Probe, Proof
from edgevit.backends.trials import Quantizers
from edgevit.errors import InputError
from edgevit.images.preprocessing import Preprocessing
from edgevit.placement.layers import Placement
from edgevit.progress import Progress
from edgevit.quantize.fusion import STORES_EVERYTHING, Fusion
from edgevit.quantize.plan import PrecisionPlan
from edgevit.targets.facts import Facts, Missing
from edgevit.targets.profiles import Board, Strict, explain

# A build takes a minute, an image a second or two; only a hang should ever meet these.
BUILD_SECONDS = 3600.0
IMAGE_SECONDS = 30.0

ExportFormat = Literal["onnx", "program"]
Outputs = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class CompileRequest:
    """One artefact to make.

    `onnx` is the simplified float graph (input float32 [1, channels, height, width], normalised) or, for a
    backend whose `export_format` is a torch.export program (input float32 [1, height, width, channels],
    normalised), `vendor_float` the vendor's own float file made of it. `calibration` and `evaluate` are pixels,
    uint8 [n, height, width, channels] .npy; the artefact's outputs on `evaluate` are wanted too. `out` is an
    existing folder for what is to be kept. `description` is written into the artefact, where its format has room.
    """

    onnx: Path | None
    vendor_float: Path | None
    plan: PrecisionPlan
    board: Board
    preprocessing: Preprocessing
    calibration: Path
    evaluate: Path | None
    out: Path
    description: str = ""


@dataclass(frozen=True)
class FloatRequest:
    """A vendor's float file to make of a saved torch.export program, in the existing folder `out`.

    The program takes float32 [1, height, width, channels] normalised; the file is proved on `probe`.
    """

    program: Path
    probe: Probe
    preprocessing: Preprocessing
    out: Path


@dataclass(frozen=True)
class CompileResult:
    """A made artefact; `outputs` float32 [n, classes] .npy; `how` labels where they were computed."""

    artefact: Path
    outputs: Path | None
    how: str
    tools: dict[str, str]
    details: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """What a step records of it; files by their names."""
        return {
            "artefact": self.artefact.name,
            "how": self.how,
            "tools": self.tools,
            "details": self.details,
        }


@dataclass(frozen=True)
class Simulator:
    """Outputs [n, classes] of a model realised by a plan, and the planned tensors that its compiler stores.

    `placed` tells where it runs each layer under a plan, and at which cost; None where it can't.
    """

    outputs: Callable[[PrecisionPlan], Outputs]
    stored: frozenset[str]
    placed: Callable[[PrecisionPlan], Placement] | None = None


@dataclass(frozen=True)
class OnBoard:
    """How artefacts run on a board, and what a board needs for that.

    `runtime` is the file that is copied to the board beside the runner, with those of `beside`, which it
    imports: it defines a class `Runtime` (see `board_runtime`). `packages` are the Python packages worth
    looking for there, `needs` what a board lacks, `install` how to get the Python package that `runtime`
    imports. `probe` is POSIX shell that says more about the board (`say KEY VALUE`, keys of `Facts`).
    `layer_times` reads the runtime's own table of times, as rows with `index`, `op`, `target`, `us`, `cycles`
    and `name`. `python_here` gives the Python that runs artefacts on this machine; None: they run on the board
    only. `android` and `benchmark_model` say whether artefacts run on Android without Python, by TensorFlow
    Lite's own tool. `runtime_words` says for people what runs artefacts there, with the versions of `tools`
    filled in; `takes_pixels` whether artefacts normalise by themselves; `layout` is that of their input;
    `description_room` how many bytes of description they can hold. `cpp_sample` is what a bundle's program in
    C++ needs: a runtime.h with the class Model, and a runtime.cmake; `android_sample` a class for an app.
    `native_runner` are the sources of a runner for boards without Python. `dump_graph` makes a copy of an
    artefact whose every tensor is an output.
    """

    runtime: Path
    packages: tuple[str, ...]
    needs: Callable[[Facts], list[Missing]]
    install: Callable[[Facts], Missing]
    beside: tuple[Path, ...] = ()
    native_runner: tuple[Path, ...] = ()
    probe: str = ""
    layer_times: Callable[[str], list[dict[str, Any]]] | None = None
    python_here: Callable[[], str] | None = None
    android: bool = False
    benchmark_model: bool = False
    runtime_words: str = ""
    takes_pixels: bool = False
    layout: Literal["NHWC", "NCHW"] = "NHWC"
    cpp_sample: tuple[Path, ...] = ()
    android_sample: tuple[Path, ...] = ()
    description_room: int | None = None
    dump_graph: Callable[[Path, Path], Path] | None = None


@dataclass(frozen=True)
class Backend:
    """A vendor's tools: what they take and make, how to call them, and how their artefacts run.

    `suffix` ends its artefacts' names, `device` is what runs them, in words, `source` what a new board
    profile cites. `options` is the type of the vendor's own settings, `[options.NAME]` of plans and
    recipes. `tools` gives what decides an artefact besides its request (versions, a lock); it raises
    ToolchainError where they are not installed, as `compile` does where they fail. `convert_float` makes
    the vendor's float file of an exported program and proves it, by other ways too where the usual one
    fails. `takes_ranges` says whether a plan's own ranges and 16-bit tensors are realised, `fusion` which
    tensors the compiler never stores, `simulations` gives a simulator of many plans for one model.
    `quantizers` are the ways to quantize that are measured and chosen from. `prove` compiles in float,
    compares the artefact's outputs with the float model's on a probe, and finds what to leave out of the
    build where they are wrong; `made` is then the artefact, if it is at hand. `place` compiles for the layers
    alone: where each runs and what it costs. `run` gives outputs float32
    [n, classes] for pixels uint8 [n, height, width, channels] on this machine; None where only the device
    itself can.
    """

    name: str
    suffix: str
    device: str
    source: str
    export_format: ExportFormat
    options: type[Strict]
    tools: Callable[[Board], dict[str, str]]
    compile: Callable[[CompileRequest, Progress], CompileResult]
    on_board: OnBoard
    convert_float: Callable[[FloatRequest, Progress], tuple[Path, Proof]] | None = None
    takes_ranges: bool = False
    fusion: Fusion = STORES_EVERYTHING
    simulations: Callable[[CompileRequest, Progress], AbstractContextManager[Simulator]] | None = None
    quantizers: Quantizers | None = None
    prove: Callable[[CompileRequest, Probe, Progress], Proof] | None = None
    place: Callable[[CompileRequest, Progress], Placement] | None = None
    run: Callable[[Path, Pixels, Preprocessing, Progress], Outputs] | None = None
    for_npu: bool = False

    def options_of(self, options: Mapping[str, Mapping[str, Any]], what: str = "cannot use a plan") -> Any:
        """This backend's own options among those of a plan or recipe, defaults where none are given.

        Raises InputError, beginning with `what`, for an option that there is not or a value that it does not take.
        """
        try:
            return self.options.model_validate(dict(options.get(self.name, {})))
        except ValidationError as error:
            why, fix = explain(error, self.options)
            raise InputError(what, f"options.{self.name}: {why}", fix) from None


def time_limit_s(request: CompileRequest) -> float:
    """Seconds without a result after which a worker counts as hanging, by how many images it will see."""
    paths = [request.evaluate, request.calibration if request.plan.quantized else None]
    images = sum(len(np.load(path, mmap_mode="r", allow_pickle=False)) for path in paths if path)
    return BUILD_SECONDS + IMAGE_SECONDS * images
