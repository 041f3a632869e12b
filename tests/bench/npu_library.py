"""The stand-in for Rockchip's runtime library, compiled, and what it answers."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

COMPILER = shutil.which("cc")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler (apt-get install gcc)")
SOURCE = Path(__file__).with_name("librknnrt.c")


def compiled(folder: Path, *, mini: bool = False) -> Path:
    """librknnrt.so in a folder; or librknnmrt.so, that of the smallest chips."""
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / ("librknnmrt.so" if mini else "librknnrt.so")
    assert COMPILER is not None
    options = ["-shared", "-fPIC", "-Wall", "-Werror", *(["-DMINI"] if mini else [])]
    subprocess.run([COMPILER, *options, "-o", library, SOURCE], check=True)
    return library


def model(path: Path, shape: tuple[int, int, int], classes: int, words: str = "") -> Path:
    """A file that the stand-in takes; `words` make it fail."""
    path.write_text(f"RKNN {shape[0]} {shape[1]} {shape[2]} {classes} {words}")
    return path


def answers(pixels: npt.NDArray[np.uint8], classes: int, mask: int = 0) -> npt.NDArray[np.float32]:
    """What the stand-in makes of pixels [n, height, width, channels] on the cores of a mask."""
    flat = pixels.reshape(len(pixels), -1)
    sums = [flat[:, each::classes].sum(1, dtype=np.uint32) for each in range(classes)]
    return np.stack(sums, axis=1).astype(np.float32) / np.float32(1000) + np.float32(mask)
