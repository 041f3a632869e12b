"""ONNX Runtime on this machine's CPU: outputs, and times in turns."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgevit.images.preprocessing import Preprocessing
from edgevit.progress import Progress

ROUNDS, MIN_ROUNDS, ROUNDS_SECONDS = 40, 7, 20.0
WARM_UP = 3


def in_turns(
    models: list[Path],
    one: npt.NDArray[np.float32],
    *,
    rounds: int = ROUNDS,
    seconds: float = ROUNDS_SECONDS,
) -> list[tuple[float, ...]]:
    """Milliseconds of one inference of `one` [1, channels, height, width] on one thread, each model once a round.

    Stops after `seconds`, but not before a few rounds are done.
    """
    sessions = [open_model(model, threads=1) for model in models]
    name = sessions[0].get_inputs()[0].name
    times: list[list[float]] = [[] for _ in models]
    begun = time.perf_counter()
    for number in range(WARM_UP + rounds):
        if number >= WARM_UP + MIN_ROUNDS and time.perf_counter() - begun > seconds:
            break
        for session, series in zip(sessions, times, strict=True):
            started = time.perf_counter()
            session.run(None, {name: one})
            series.append(1000 * (time.perf_counter() - started))
    return [tuple(series[WARM_UP:]) for series in times]


def run(
    model: Path, pixels: npt.NDArray[np.uint8], preprocessing: Preprocessing, progress: Progress
) -> npt.NDArray[np.float32]:
    """Outputs float32 [n, values], all of them side by side, for pixels uint8 [n, height, width, channels]."""
    session = open_model(model)
    name = session.get_inputs()[0].name
    rows: list[Any] = []
    for number, image in enumerate(pixels):
        given = session.run(None, {name: preprocessing.normalise(np.asarray(image)[None])})
        rows.append(np.concatenate([each.reshape(-1) for each in given]))
        progress.advance(number + 1, len(pixels))
    return np.stack(rows).astype(np.float32)


def open_model(model: Path, threads: int = 0) -> Any:
    """A session on the CPU; 0 threads: as many as there are cores."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
