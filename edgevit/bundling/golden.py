"""The self-test's pictures: as the model takes them, with the outputs that simulator or host gave."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgevit.backends.registry import by_suffix
from edgevit.progress import QUIET
from edgevit.run.reading import RunFiles
from edgevit.run.results import Result

PICTURES = 8


@dataclass(frozen=True)
class Golden:
    """Pixels uint8 [n, height, width, channels], outputs float32 [n, classes], and who gave them."""

    pixels: npt.NDArray[np.uint8]
    outputs: npt.NDArray[np.float32]
    how: str


def golden_of(run: RunFiles, result: Result) -> Golden:
    """Pictures of the run's validation images, spread over what they are taken for; else noise, run here.

    An artefact that neither was run nor runs here has none.
    """
    try:
        step = run.manifest.step(result.step)
        outputs = run.array(step, "outputs.npy")
        pixels = run.array(run.validation_of(step), "pixels.npy")
        some = min(PICTURES, len(outputs))
        apart = np.linspace(0, len(outputs) - 1, some).round().astype(int).tolist()
        rows = spread(outputs) if run.manifest.model.gives.classes else apart
        return Golden(np.asarray(pixels[rows]), np.asarray(outputs[rows], np.float32), result.how)
    except LookupError:
        pass
    shape = (PICTURES, *result.preprocessing.size, len(result.preprocessing.mean))
    noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    backend, path = by_suffix(run.path_of(result)), run.path_of(result)
    if backend is None or backend.run is None:
        return Golden(noise[:0], np.zeros((0, 1), np.float32), "")
    return Golden(noise, backend.run(path, noise, result.preprocessing, QUIET), "host CPU")


def spread(outputs: npt.NDArray[np.float32]) -> list[int]:
    """Rows of a few images, of as many predicted classes as there are, the surest of each first."""
    predicted, margins = outputs.argmax(1), np.sort(outputs, axis=1)[:, -2:]
    order = np.argsort(-(margins[:, -1] - margins[:, 0]), kind="stable")
    taken, seen = list[int](), dict[int, int]()
    for rank in range(len(outputs)):
        for row in order:
            label = int(predicted[row])
            if len(taken) < PICTURES and row not in taken and seen.get(label, 0) == rank:
                taken.append(int(row))
                seen[label] = rank + 1
        if len(taken) == min(PICTURES, len(outputs)):
            break
    return sorted(taken)


def suffix(channels: str) -> str:
    """Of a picture's name: what Pillow, OpenCV and ten lines of C++ can read."""
    return ".pgm" if channels == "L" else ".ppm"


def picture(pixels: npt.NDArray[np.uint8], channels: str) -> bytes:
    """Pixels of one picture as a binary .ppm in RGB, or a .pgm."""
    shown = pixels[..., ::-1] if channels == "BGR" else pixels
    height, width = pixels.shape[:2]
    kind = "P5" if channels == "L" else "P6"
    return f"{kind}\n{width} {height}\n255\n".encode() + np.ascontiguousarray(shown).tobytes()
