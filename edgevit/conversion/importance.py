"""What each attention head of a model is worth, on the user's images, before anything is removed."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgevit.conversion.artefacts import Conversion
from edgevit.errors import InputError
from edgevit.progress import Progress
from edgevit.request.job import Job
from edgevit.run.folder import Run

if TYPE_CHECKING:
    import onnx

    from edgevit.compression.head_importance import Importance
    from edgevit.models import LoadedModel

STAGE = "importance"


def importance(job: Job, run: Run, progress: Progress) -> Importance:
    """Price every head of the job's model on its calibration images, cached. Raises InputError."""
    from edgevit.compression.head_importance import Importance

    conversion = Conversion(job, run, progress)
    pixels = conversion.fitting(conversion.own_preprocessing)
    if pixels is None:
        raise InputError(
            "cannot price the attention heads",
            "no calibration images",
            "Pass --calibration with a folder or CSV of 64 or more typical images",
        )
    inputs = {"model": conversion.model.key, "images": pixels.key, "seed": job.seed}

    def make(folder: Path) -> dict[str, Any]:
        from torch import from_numpy

        from edgevit.compression.head_importance import head_importance
        from edgevit.compression.head_importance_of_graph import head_importance_of_graph

        progress.stage("price every attention head")
        images = np.load(pixels.path("pixels.npy"))
        normalised = from_numpy(conversion.own_preprocessing.normalise(images))
        loaded = conversion.loaded
        if loaded.canonical:
            price: Callable[..., Importance] = partial(head_importance, loaded.module)
        else:
            price = partial(head_importance_of_graph, graph_of(loaded, folder))
        found = price(normalised, seed=job.seed, outputs=loaded.outputs, progress=progress)
        (folder / "importance.json").write_text(json.dumps(found.to_json(), indent=1), encoding="utf-8")
        return {"images": found.images}

    step = run.step(STAGE, inputs, make)
    return Importance.from_json(json.loads(step.path("importance.json").read_text(encoding="utf-8")))


def graph_of(loaded: LoadedModel, folder: Path) -> onnx.ModelProto:
    """The model's graph, its own or exported by way of a file in `folder`."""
    import onnx

    from edgevit.conversion.reference import write_onnx

    path = write_onnx(loaded, loaded.module, folder / "model.onnx")
    found = onnx.load(path)
    path.unlink()
    return found
