"""What a backend is given, what it gives back, and the members every backend module has."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from edgevit.images.preprocessing import Preprocessing
from edgevit.progress import Progress
from edgevit.quantize.plan import PrecisionPlan
from edgevit.targets.profiles import Board

# A build takes a minute, an image a second or two; only a hang should ever meet these.
BUILD_SECONDS = 3600.0
IMAGE_SECONDS = 30.0

Handover = Literal["onnx", "program"]


@dataclass(frozen=True)
class CompileRequest:
    """One artefact to make.

    `onnx` is the simplified float graph (input float32 [1, channels, height, width], normalised) or, for a backend
    whose HANDOVER is a torch.export program (input float32 [1, height, width, channels], normalised), `lowered` the
    vendor's own float file made of it. `calibration` and `evaluate` are pixels, uint8 [n, height, width, channels]
    .npy; the artefact's logits on `evaluate` are wanted too. `out` is an existing folder for what is to be kept.
    """

    onnx: Path | None
    lowered: Path | None
    plan: PrecisionPlan
    board: Board
    preprocessing: Preprocessing
    calibration: Path
    evaluate: Path | None
    out: Path


@dataclass(frozen=True)
class CompileResult:
    """A made artefact; `logits` float32 [n, classes] .npy; `how` labels where they were computed."""

    artefact: Path
    logits: Path | None
    how: str
    tools: dict[str, str]
    details: dict[str, Any] = field(default_factory=dict)


def time_limit_s(request: CompileRequest) -> float:
    """Seconds without a result after which a worker counts as hanging, by how many images it will see."""
    paths = [request.evaluate, request.calibration if request.plan.quantized else None]
    images = sum(len(np.load(path, mmap_mode="r", allow_pickle=False)) for path in paths if path)
    return BUILD_SECONDS + IMAGE_SECONDS * images


class Backend(Protocol):
    """A backend is a module with these members."""

    HANDOVER: Handover
    TAKES_RANGES: bool  # whether a plan's own ranges and 16-bit tensors are realised

    def tools(self) -> dict[str, str]:
        """What decides an artefact besides its request: versions, a toolchain's lock. Raises ToolchainError."""

    def compile(self, request: CompileRequest, progress: Progress) -> CompileResult:
        """Make the artefact and run it on the evaluation images. Raises ToolchainError."""
