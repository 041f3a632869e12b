"""What every call of LiteRT's worker needs: images and their scaling, absolute paths, outputs."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from edgevit.backends.protocol import IMAGE_SECONDS, Outputs
from edgevit.images.preprocessing import Preprocessing
from edgevit.progress import Progress
from edgevit.toolchains.call import run_job

TOOLCHAIN = "litert"
PREDICT_SECONDS = 120.0


def answers(
    model: Path, pixels: Path, job: Path, preprocessing: Preprocessing, progress: Progress, threads: int = 0
) -> Outputs:
    """Outputs of a .tflite on pixels of a file, by a worker in the folder `job`; 0 threads: one a core.

    Raises ToolchainError.
    """
    outputs = job / "outputs.npy"
    job.mkdir(parents=True, exist_ok=True)
    arguments = {
        "model": text(model),
        "pixels": text(pixels),
        "outputs": text(outputs),
        "threads": threads or os.cpu_count() or 1,
        **pixel_scaling(preprocessing),
    }
    limit_s = PREDICT_SECONDS + IMAGE_SECONDS * len(np.load(pixels, mmap_mode="r", allow_pickle=False))
    run_job(TOOLCHAIN, "run", arguments, job, progress=progress, timeout_s=limit_s)
    found: Outputs = np.load(outputs, allow_pickle=False)
    outputs.unlink()
    return found


def pixel_scaling(preprocessing: Preprocessing) -> dict[str, list[float]]:
    """`mean` and `std` per channel in 0..255, as the worker takes them."""
    return {
        "mean": [255 * value for value in preprocessing.mean],
        "std": [255 * value for value in preprocessing.std],
    }


def text(path: Path | None) -> str:
    """An absolute path for a worker, which runs in a folder of its own."""
    assert path is not None
    return str(path.resolve())
