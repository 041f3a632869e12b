"""An artefact evaluated on many images by many workers: each compiles it and simulates a share of them.

A vendor's simulator can only run what its own session compiled, so every share is compiled again; that the
artefacts compute the same is seen on an image that all shares have.
"""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgevit.backends.protocol import CompileRequest, CompileResult
from edgevit.backends.registry import backend_of
from edgevit.cluster.tasks import Task, Workers, all_of
from edgevit.errors import EdgevitError
from edgevit.progress import Progress
from edgevit.run.step import Step

SHARD = 256  # images: a compilation is worth so many
PIXELS = "pixels.npy"


def worth_sharing(images: Step) -> bool:
    """Whether there are images for more than one share."""
    return len(np.load(images.path(PIXELS), mmap_mode="r", allow_pickle=False)) > SHARD


def compile_in_shards(request: CompileRequest, workers: Workers, progress: Progress) -> CompileResult:
    """What the backend's `compile` gives, by `workers` that see the folders of the request.

    Raises the EdgevitError of the first share that fails on every worker that tried it, or where two workers'
    artefacts compute different outputs.
    """
    assert request.evaluate is not None
    pixels = np.load(request.evaluate, mmap_mode="r", allow_pickle=False)
    count = math.ceil(len(pixels) / SHARD)
    folder = request.out / "shards"
    tasks = [
        share(request, pixels[[0, *part]], folder / f"{number}")
        for number, part in enumerate(np.array_split(np.arange(len(pixels)), count))
    ]
    results: list[CompileResult] = all_of(workers, tasks, progress, "shares of the images simulated")
    rows = [np.load(result.outputs, allow_pickle=False) for result in results if result.outputs]
    if any((each[0] != rows[0][0]).any() for each in rows):
        raise EdgevitError(
            "cannot join the shares of the evaluation",
            "two workers' artefacts compute different outputs for one image",
            "Use workers with the same processor, or leave the cluster out",
        )
    artefact, outputs = request.out / results[0].artefact.name, request.out / "outputs.npy"
    results[0].artefact.replace(artefact)
    np.save(outputs, np.concatenate([each[1:] for each in rows]), allow_pickle=False)
    shutil.rmtree(folder)
    return replace(results[0], artefact=artefact, outputs=outputs)


def share(request: CompileRequest, pixels: np.ndarray, out: Path) -> Task:
    """One share as a task, its images written down."""
    out.mkdir(parents=True)
    np.save(out / PIXELS, pixels, allow_pickle=False)
    own = replace(request, evaluate=out / PIXELS, out=out)
    return Task(f"{request.board.id} {request.plan.precision}, images {out.name}", compile_share, (own,))


def compile_share(request: CompileRequest, progress: Progress) -> CompileResult:
    """Compile and simulate one share; what another try left is removed first."""
    assert request.evaluate is not None
    for leftover in request.out.iterdir():
        if leftover != request.evaluate:
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    return backend_of(request.board).compile(request, progress)
