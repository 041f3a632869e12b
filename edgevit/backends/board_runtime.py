"""What runs an artefact on a board: the base of every backend's `Runtime`. Python 3.7, standard library and numpy.

This file, a backend's runtime.py and bench's on_board.py lie side by side on the board and import each other by
their plain names.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any, Dict

Values = Dict[str, Any]  # dict[...] needs Python 3.9


class Refused(Exception):
    """Something that can't be done here; its values go to the host as {"error": values}.

    `missing` "runtime": what runs the artefacts is not there, library or Python package; "numpy": numpy is not.
    """

    def __init__(self, why: str, **values: Any) -> None:
        super().__init__(why)
        self.values = {"why": why, **values}


class Model:
    """An artefact and how it is run. A backend's `Runtime` has the same members and `open`, `infer` besides.

    `open(setting)` loads it: a setting is a number of threads on a processor, a set of cores on an NPU.
    `prepare` turns pixels uint8 [height, width, channels] into input, `infer` runs that, `real` turns what came
    out into outputs float32 [values]. The request's `mean` and `std` are in units of 0..255.
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

    def ready(self) -> None:
        """Whether what runs artefacts is here, told before they are copied. Raises Refused."""

    def another(self, setting: str) -> Any:
        """The same artefact opened once more, to run at the same time."""
        other: Any = type(self)(Path(self.path), self.request)
        other.open(setting)
        return other

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
        """Outputs float32 [values], all of them side by side."""
        return output.reshape(-1)

    def why_no_tensors(self) -> str:
        """Why inner tensors can't be had, or nothing: then `tensors(pixels)` gives them by name."""
        return ""

    def layer_times(self) -> str:
        """The runtime's own table of one inference's times, layer by layer; empty where it gives none."""
        return ""

    def close(self) -> None:
        """Let go of what `open` took."""


def require(*packages: str) -> None:
    """Raises Refused where none of the packages is here; none is imported, which takes seconds on a board."""
    if not any(importlib.util.find_spec(name) for name in packages):
        raise Refused("No module named " + repr(packages[0]), missing="runtime")


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
