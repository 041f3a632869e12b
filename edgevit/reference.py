"""The float model as the yardstick of everything after it: its logits, and the graphs proved equal to it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from edgevit.export import export_onnx, export_program, parity
from edgevit.load import LoadedModel
from edgevit.preprocessing import Preprocessing
from edgevit.progress import Progress

if TYPE_CHECKING:
    from torch import nn

BATCH = 16


def write_logits(loaded: LoadedModel, pixels: Path, out: Path, progress: Progress) -> dict[str, Any]:
    """Write torch's float32 logits [n, classes] for pixels uint8 [n, height, width, channels]."""
    progress.stage("float reference")
    images = np.load(pixels, mmap_mode="r")
    np.save(out, logits_of(loaded.module, images, loaded.preprocessing, progress))
    return {"n": len(images)}


@torch.inference_mode()
def logits_of(
    module: nn.Module, pixels: np.ndarray[Any, Any], preprocessing: Preprocessing, progress: Progress
) -> np.ndarray[Any, Any]:
    """Float32 logits [n, classes] of a torch module, in batches."""
    logits = []
    for start in range(0, len(pixels), BATCH):
        batch = preprocessing.normalise(np.asarray(pixels[start : start + BATCH]))
        logits.append(module(torch.from_numpy(batch)).float().numpy())
        progress.advance(min(start + BATCH, len(pixels)), len(pixels))
    return np.concatenate(logits)


def export(loaded: LoadedModel, pixels: np.ndarray[Any, Any], folder: Path, handover: str) -> dict[str, Any]:
    """Write the graph a backend starts from ("onnx" or "program") and prove it equal to torch on `pixels`.

    Returns the largest logit difference. Raises ParityError beyond the tolerance.
    """
    size, channels = loaded.preprocessing.size, len(loaded.preprocessing.mean)
    if handover == "onnx":
        path = export_onnx(loaded.module, size, channels, folder / "model.onnx")
    else:
        path = export_program(loaded.module, size, channels, folder / "model.pt2")
    return {"max_logit_difference": parity(path, loaded.module, pixels, loaded.preprocessing)}
