"""What runs an artefact on a board: the base of every backend's `Runtime`. Python 3.7, standard library and numpy.

This file, a backend's runtime.py and bench's on_board.py lie side by side on the board and import each other by
their plain names.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

Values = dict[str, Any]


class Refused(Exception):
    """Something that can't be done here; its values go to the host as {"error": values}.

    `missing` "runtime": the Python package that runs the artefacts is not there; "numpy": numpy is not.
    """

    def __init__(self, why: str, **values: Any) -> None:
        super().__init__(why)
        self.values = {"why": why, **values}


class Model:
    """An artefact and how it is run. A backend's `Runtime` has the same members and `open`, `infer` besides.

    `open(setting)` loads it: a setting is a number of threads on a processor, a set of cores on an NPU.
    `prepare` turns pixels uint8 [height, width, channels] into input, `infer` runs that, `real` turns what came
    out into outputs float32 [classes]. The request's `mean` and `std` are in units of 0..255.
    """

    sets_threads = True  # whether settings are thread counts, for the labels of what was measured

    def __init__(self, path: Path, request: Values) -> None:
        self.path, self.request = str(path), request

    def settings(self) -> list[str]:
        """What to try: thread counts, 1, 2, 4 and so on."""
        counts = self.request["threads"] or thread_counts(cores())
        return [str(count) for count in counts]

    def side_by_side(self) -> list[str]:
        """Settings that can run at once without sharing a core; empty where there are none."""
        return []

    def warning(self) -> str:
        """What to tell before anything is measured, or nothing."""
        return ""

    def versions(self) -> Values:
        """Of what runs it, besides Python packages."""
        return {}

    def normalised(self, pixels: Any) -> Any:
        """float32 [1, height, width, channels]"""
        import numpy as np

        mean, std = (np.asarray(self.request[name], np.float32) for name in ("mean", "std"))
        return ((pixels.astype(np.float32) - mean) / std)[None]

    def real(self, output: Any) -> Any:
        """Outputs float32 [classes]."""
        return output.reshape(-1)

    def why_no_tensors(self) -> str:
        """Why inner tensors can't be had, or nothing: then `tensors(pixels)` gives them by name."""
        return ""

    def close(self) -> None:
        """Let go of what `open` took."""


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def thread_counts(count: int) -> list[int]:
    """Powers of two up to the number of cores, and that number."""
    return sorted({1 << power for power in range(count.bit_length())} | {count})


def read(path: str) -> str | None:
    """A small file's text, or None."""
    try:
        with Path(path).open("rb") as file:
            return file.read(4096).decode(errors="replace").strip("\0 \n") or None
    except OSError:
        return None
