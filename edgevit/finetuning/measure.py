"""What a model being fine-tuned gets right, on pictures as the converted model will see them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from edgevit.finetuning.pictures import plain
from edgevit.images import ImageSet
from edgevit.images.pixels import attempt
from edgevit.images.preprocessing import Preprocessing
from edgevit.progress import Progress

BATCH = 32


def outputs_of(
    module: nn.Module, paths: Sequence[Path], preprocessing: Preprocessing, device: torch.device
) -> torch.Tensor:
    """Outputs [n, classes] on pictures as they are."""
    found = []
    with torch.inference_mode():
        for start in range(0, len(paths), BATCH):
            images = plain(paths[start : start + BATCH], preprocessing)
            found.append(module(images.to(device)).float().cpu())
    return torch.cat(found)


def some_of(images: ImageSet, rows: tuple[int, ...]) -> ImageSet:
    """Some images of a set."""
    assert images.labels is not None
    return replace(
        images,
        paths=tuple(images.paths[row] for row in rows),
        labels=tuple(images.labels[row] for row in rows),
        digests=tuple(images.digests[row] for row in rows),
    )


def confusion(
    module: nn.Module, images: ImageSet, classes: int, preprocessing: Preprocessing, progress: Progress
) -> npt.NDArray[np.int64]:
    """Counts [class, predicted class]; pictures that can't be read are left out."""
    assert images.labels is not None
    counts = np.zeros((classes, classes), dtype=np.int64)
    for number, (path, label) in enumerate(zip(images.paths, images.labels, strict=True)):
        pixels = attempt(path, preprocessing)
        if isinstance(pixels, str):
            progress.warn(f"skipped {path.name}: {pixels}")
            continue
        with torch.inference_mode():
            output = module(torch.from_numpy(preprocessing.normalise(pixels[None])))
        counts[label, int(output.argmax())] += 1
        progress.advance(number + 1, len(images.paths), "measure")
    return counts
