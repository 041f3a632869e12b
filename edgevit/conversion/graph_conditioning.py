"""An exported graph made ready for int8 in its own file, proved to keep the function."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch

from edgevit.export.onnx_graph import give_back_memory, write_graph
from edgevit.models import LoadedModel
from edgevit.progress import Progress
from edgevit.rewrites.graph.apply import difference_of
from edgevit.rewrites.result import RewriteRecord
from edgevit.rewrites.roles import FOR_INT8

if TYPE_CHECKING:
    from edgevit.quantize.conditioning import Transform

MIN_IMAGES = 8
NOTHING = "the graph has no residual stream that only norms and layers read, and no attention between layers"
NO_GAIN = "held-out images don't say that it helps"


def condition_file(
    path: Path,
    loaded: LoadedModel,
    pixels: np.ndarray[Any, Any],
    seed: int,
    few: np.ndarray[Any, Any],
    progress: Progress,
) -> tuple[RewriteRecord, tuple[Transform, ...]]:
    """What was done to the graph in `path`, or why nothing was; and every change tried.

    `pixels` uint8 [n, height, width, channels] are the calibration images, `few` normalised ones to prove it on.
    """
    from edgevit.quantize.graph.conditioning import PARTS

    (name,) = FOR_INT8
    if len(pixels) < MIN_IMAGES:
        why = f"{len(pixels)} calibration images are too few to tell whether it helps"
        return RewriteRecord(name, False, f"left out: {why}", None), ()
    progress.stage("condition the graph for int8")
    before = onnx.load(path)
    images = torch.from_numpy(loaded.preprocessing.normalise(pixels))
    graph, moved, steps, left_out = before, 0.0, list["Transform"](), list[str]()
    for part, condition in PARTS.items():
        try:
            found = condition(graph, images, seed, loaded.outputs, progress)
            off, allowed = difference_of(found.graph, before, few)
        except Exception as error:  # of an operation that isn't known, shape inference, ONNX Runtime
            lines = str(error).strip().splitlines() or [type(error).__name__]
            left_out.append(f"{part} left out, it fails on this graph: {lines[0][:200]}")
            continue
        if off > allowed:
            left_out.append(f"{part} left out, it moves an output by {off:.2g}")
            continue
        steps += found.steps
        if any(step.kept for step in found.steps):
            graph, moved = found.graph, off
    kept = [step.what for step in steps if step.kept]
    if not kept:
        why = "; ".join(left_out) or f"left out: {NO_GAIN if steps else NOTHING}"
        return RewriteRecord(name, False, why, None), tuple(steps)
    write_graph(graph, path, for_npu=False)
    give_back_memory()
    return RewriteRecord(name, True, "; ".join([*kept, *left_out]), moved), tuple(steps)
