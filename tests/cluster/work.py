"""Tasks for the tests: importable by the processes that run them."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from edgevit.errors import InputError

Progress = Any


def double(number: int, progress: Progress) -> int:
    return 2 * number


def where(progress: Progress) -> int:
    time.sleep(0.3)  # long enough for every worker to get one
    return os.getpid()


def refuse(progress: Progress) -> None:
    raise InputError("cannot make it", "it is poisoned", "Leave it out")


def divide(number: int, progress: Progress) -> float:
    return 1 / number


def end_the_process(progress: Progress) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def end_the_process_once(marker: Path, progress: Progress) -> str:
    """The first that comes here is killed in the middle of its work."""
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return "made"
    os.kill(os.getpid(), signal.SIGKILL)
    return "never"


def wait_once(marker: Path, progress: Progress) -> str:
    """The first that comes here says who it is, and waits for a minute."""
    try:
        with marker.open("x") as file:
            file.write(str(os.getpid()))
    except FileExistsError:
        return "made"
    time.sleep(60)
    return "waited in vain"


def fail_in_one_process(marker: Path, progress: Progress) -> str:
    """The first process that comes here has a full disk, ever after."""
    try:
        with marker.open("x") as file:
            file.write(str(os.getpid()))
    except FileExistsError:
        pass
    time.sleep(0.2)
    if marker.read_text() == str(os.getpid()):
        raise OSError(28, "No space left on device")
    return "made"
