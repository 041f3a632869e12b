"""What each attention head of a model is worth, on the user's images, before anything is removed."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from edgevit.cluster.tasks import Task, Workers, all_of
from edgevit.conversion.artefacts import Conversion
from edgevit.errors import InputError
from edgevit.progress import Progress
from edgevit.request.job import Job
from edgevit.run.folder import Run, open_run
from edgevit.run.step import Step

if TYPE_CHECKING:
    import onnx

    from edgevit.compression.head_importance import Importance, Share
    from edgevit.models import LoadedModel

STAGE = "importance"


def importance(job: Job, run: Run, progress: Progress, workers: Workers | None = None) -> Importance:
    """Price every head of the job's model on its calibration images, cached; by `workers`, where there are any.

    Raises InputError.
    """
    from edgevit.compression.head_importance import WHOLE, Importance

    conversion = Conversion(job, run, progress)
    pixels = pixels_of(conversion)
    inputs = {"model": conversion.model.key, "images": pixels.key, "seed": job.seed}

    def make(folder: Path) -> dict[str, Any]:
        found = (
            priced(conversion, pixels, WHOLE)
            if workers is None
            else Importance.joined(by_workers(job, workers, progress))
        )
        (folder / "importance.json").write_text(json.dumps(found.to_json(), indent=1), encoding="utf-8")
        return {"images": found.images}

    step = run.step(STAGE, inputs, make)
    return Importance.from_json(json.loads(step.path("importance.json").read_text(encoding="utf-8")))


def pixels_of(conversion: Conversion) -> Step:
    """The images that heads are priced on. Raises InputError where there are none."""
    pixels = conversion.fitting(conversion.own_preprocessing)
    if pixels is None:
        raise InputError(
            "cannot price the attention heads",
            "no calibration images",
            "Pass --calibration with a folder or CSV of 64 or more typical images",
        )
    return pixels


def priced(conversion: Conversion, pixels: Step, share: Share) -> Importance:
    """The prices of a share of the heads."""
    from torch import from_numpy

    from edgevit.compression.head_importance import head_importance
    from edgevit.compression.head_importance_of_graph import head_importance_of_graph

    conversion.progress.stage("price every attention head")
    normalised = from_numpy(conversion.own_preprocessing.normalise(np.load(pixels.path("pixels.npy"))))
    loaded = conversion.loaded
    price: Callable[..., Importance] = (
        partial(head_importance, loaded.module)
        if loaded.canonical
        else partial(head_importance_of_graph, graph_of(loaded))
    )
    told = {"seed": conversion.job.seed, "outputs": loaded.outputs, "progress": conversion.progress}
    return price(normalised, share=share, **told)


def by_workers(job: Job, workers: Workers, progress: Progress) -> list[Importance]:
    """The prices in shares, one for each worker. Raises the EdgevitError of the first that fails."""
    from edgevit.compression.head_importance import Share

    count = max(1, workers.free())
    tasks = [
        Task(f"heads, share {number + 1} of {count}", price_share, (job, Share(number, count)))
        for number in range(count)
    ]
    return all_of(workers, tasks, progress, "shares of the heads priced")


def price_share(job: Job, share: Share, progress: Progress) -> Importance:
    """One share as a task: the model and its images are read from where the job says."""
    with open_run(None) as run:
        conversion = Conversion(job, run, progress)
        return priced(conversion, pixels_of(conversion), share)


def graph_of(loaded: LoadedModel) -> onnx.ModelProto:
    """The model's graph, its own or exported."""
    import onnx

    from edgevit.conversion.reference import write_onnx

    with TemporaryDirectory() as folder:
        return onnx.load(write_onnx(loaded, loaded.module, Path(folder) / "model.onnx"))
