"""What goes to the board: the artefact, images as it takes them, and the runner's request."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgevit.bench.choose import Artefact
from edgevit.bench.probe import packages
from edgevit.errors import InputError
from edgevit.images.preprocessing import Preprocessing
from edgevit.targets.profiles import Board

WARM_UP = 5
HALVES = (0.5, 0.5, 0.5)  # for the latency of a file that no run knows


@dataclass(frozen=True)
class Settings:
    """How long and on what to measure; `threads` None: 1, 2, 4 and so on up to the board's cores."""

    images: int | None = None
    threads: tuple[int, ...] | None = None
    runs: int = 50
    seconds: float = 10.0
    pin_clocks: bool = False
    dump_tensors: bool = False


def prepare(
    artefact: Artefact, board: Board | None, settings: Settings, folder: Path, library: str | None = None
) -> tuple[dict[str, Path], dict[str, Any]]:
    """Files for the board by their names there, and the runner's request; `library` is the runtime's path there."""
    name = f"model{artefact.path.suffix}"
    files = {name: artefact.path}
    preprocessing = preprocessing_of(artefact)
    n = write_images(artefact, settings, folder / "pixels.npy")
    if n:
        files["pixels.npy"] = folder / "pixels.npy"
    on_board = artefact.backend.on_board
    files["runtime.py"] = on_board.runtime
    files |= {path.name: path for path in on_board.beside}
    every = f"all{artefact.path.suffix}"
    if settings.dump_tensors and on_board.dump_graph is not None:
        files[every] = on_board.dump_graph(artefact.path, folder / every)
    clocks = {} if board is None else {key: each.model_dump() for key, each in board.clocks.items()}
    request = {
        "title": artefact.path.name,
        "artefact": name,
        "pixels": "pixels.npy" if n else None,
        "images": n,
        "shape": [*preprocessing.size, len(preprocessing.channels)] if preprocessing else None,
        "mean": [255 * value for value in (preprocessing.mean if preprocessing else HALVES)],
        "std": [255 * value for value in (preprocessing.std if preprocessing else HALVES)],
        "threads": settings.threads,
        "runs": settings.runs,
        "seconds": settings.seconds,
        "warm_up": WARM_UP,
        "npu_cores": board.npu.cores if board and board.npu else 1,
        "clocks": clocks,
        "temperature": list(board.temperature) if board else [],
        "pin": settings.pin_clocks,
        "dump": every if settings.dump_tensors else None,
        "tools": dict(artefact.tools),
        "libraries": None if library is None else [library],
        "packages": packages(),
    }
    return files, request


def preprocessing_of(artefact: Artefact) -> Preprocessing | None:
    """How the artefact's images are prepared: its own record, else that of the model beside it."""
    if artefact.result is not None:
        return artefact.result.preprocessing
    return artefact.run.manifest.model.preprocessing if artefact.run else None


def write_images(artefact: Artefact, settings: Settings, out: Path) -> int:
    """The first validation images as the artefact takes them, uint8; how many. 0: latency only."""
    if artefact.run is None or settings.images == 0:
        return 0
    step = artefact.run.validation_of(artefact.step)
    try:
        pixels = artefact.run.array(step, "pixels.npy")
    except LookupError:
        if settings.images:
            raise InputError(
                f"cannot measure accuracy of {artefact.path.name}",
                "its run has no validation images any more",
                "Run edgevit convert again with --validation, or give --images 0",
            ) from None
        return 0
    chosen = pixels[: settings.images]
    np.save(out, chosen)
    return len(chosen)
