"""One calculation for each of many images, shared by processes that are copies of this one.

A vendor's simulator uses one core, and only the session that built a model can run it: a copy of the process
has the session too.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

FEWEST = 8  # images that a process is worth
PR_SET_PDEATHSIG = 1  # linux/prctl.h
Row = Callable[[int], Any]


class ShareFailed(Exception):
    """A process of several ended without its rows; the words are its own where it had any."""


def rows_of(count: int, row: Row, done: Callable[[int], None]) -> Any:
    """`row(number)` [values] for each number below `count`, stacked [count, values] as one process gives them.

    `done` is told how many are finished. Raises what `row` raised, in words, as ShareFailed.
    """
    import numpy as np

    processes = min(len(os.sched_getaffinity(0)), count // FEWEST, affordable())
    if processes < 2:
        rows = []
        for number in range(count):
            rows.append(row(number))
            done(number + 1)
        return np.stack(rows)
    shares = np.array_split(np.arange(count), processes)
    reading, writing = os.pipe()
    children = [fork(share, row, Path(f"share-{place}"), writing) for place, share in enumerate(shares)]
    os.close(writing)
    finished = 0
    while told := os.read(reading, 4096):  # one byte an image, and the end once all have ended
        finished += len(told)
        done(finished)
    os.close(reading)
    ended = [os.waitpid(child, 0)[1] for child in children]
    return np.concatenate([share_of(Path(f"share-{place}"), status) for place, status in enumerate(ended)])


def fork(share: Any, row: Row, path: Path, told: int) -> int:
    """Start the process of one share, which leaves its rows, or what went wrong, beside `path`; its id."""
    import numpy as np

    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        libc = ctypes.CDLL(None)
        if hasattr(libc, "prctl"):
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # a copy must not outlive the worker
        rows = []
        for number in share:
            rows.append(row(int(number)))
            os.write(told, b".")
        np.save(path.with_suffix(".npy"), np.stack(rows), allow_pickle=False)
        code = 0
    except BaseException as error:
        traceback.print_exc()
        path.with_suffix(".txt").write_text(f"{type(error).__name__}: {error}", encoding="utf-8")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # nothing of the parent's is to be closed or cleaned twice


def share_of(path: Path, status: int) -> Any:
    """The rows of a process that ended with `status`, its files removed."""
    import numpy as np

    rows, words = path.with_suffix(".npy"), path.with_suffix(".txt")
    try:
        if os.WIFSIGNALED(status):
            raise ShareFailed(f"a process of the simulation was ended by signal {os.WTERMSIG(status)}")
        if status != 0:
            said = words.read_text(encoding="utf-8") if words.is_file() else "it said nothing"
            raise ShareFailed(f"a process of the simulation failed: {said}")
        return np.load(rows, allow_pickle=False)
    finally:
        rows.unlink(missing_ok=True)
        words.unlink(missing_ok=True)


def affordable() -> int:
    """How many processes as large as this one fit into the memory that is free, this one included."""
    try:
        free = read_kilobytes("/proc/meminfo", "MemAvailable")
        return 1 + free // max(1, read_kilobytes("/proc/self/status", "VmRSS"))
    except (OSError, ValueError):
        return 1


def read_kilobytes(file: str, name: str) -> int:
    """One "name: n kB" line of a file of the kernel's. Raises ValueError if there is none."""
    for line in Path(file).read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    raise ValueError(name)
