"""An exported graph made ready for int8 in its own file: its residual streams, proved to keep the function."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from edgevit.export.onnx_graph import give_back_memory, write_graph
from edgevit.models import LoadedModel
from edgevit.progress import Progress
from edgevit.rewrites.graph.apply import difference_of
from edgevit.rewrites.result import RewriteRecord
from edgevit.rewrites.roles import ON_STREAMS

MIN_IMAGES = 8
NO_STREAM = "the graph has no residual stream that only norms and layers read"
NO_GAIN = "held-out images don't say that it helps"


def condition_file(
    path: Path,
    loaded: LoadedModel,
    pixels: np.ndarray[Any, Any],
    seed: int,
    few: np.ndarray[Any, Any],
    progress: Progress,
) -> RewriteRecord:
    """What was done to the graph in `path`, or why nothing was.

    `pixels` uint8 [n, height, width, channels] are the calibration images, `few` normalised ones to prove it on.
    """
    from edgevit.quantize.graph.conditioning import condition

    (name,) = ON_STREAMS
    if len(pixels) < MIN_IMAGES:
        why = f"{len(pixels)} calibration images are too few to tell whether it helps"
        return RewriteRecord(name, False, f"left out: {why}", None)
    progress.stage("condition the graph for int8")
    before = onnx.load(path)
    images = torch.from_numpy(loaded.preprocessing.normalise(pixels))
    try:
        found = condition(before, images, seed=seed, outputs=loaded.outputs, progress=progress)
        off, allowed = difference_of(found.graph, before, few)
    except Exception as error:  # of an operation that isn't known, shape inference, ONNX Runtime
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return RewriteRecord(name, False, f"left out, it fails on this graph: {lines[0][:200]}", None)
    kept = [step.what for step in found.steps if step.kept]
    if not kept:
        return RewriteRecord(name, False, f"left out: {NO_GAIN if found.steps else NO_STREAM}", None)
    if off > allowed:
        return RewriteRecord(name, False, f"left out, it moves an output by {off:.2g}", None)
    write_graph(found.graph, path, for_npu=False)
    give_back_memory()
    return RewriteRecord(name, True, "; ".join(kept), off)
