"""Ctrl-C is heard at every moment: said at once, and the program ends soon, whatever a library does with it."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

LINE = "interrupted: finished stages are kept, the same command goes on from there"
GRACE_S = 2.0
EXIT_CODE = 130


@contextmanager
def heard(grace_s: float | None = GRACE_S) -> Iterator[threading.Event]:
    """While the block runs, the first SIGINT says so, raises KeyboardInterrupt, and ends the process after a grace.

    Vendors' code may swallow the exception, or hold it up for as long as a compile takes: then the process ends by
    itself, with what it started. Half-made steps are invisible and swept up by the next run. Without `grace_s` (a
    board is to be left as it was) it is never ended so. A second SIGINT ends it at once. The event is set when one
    was heard. Only the command line installs this, and only in the main thread.
    """
    told = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield told
        return

    def hear(number: int, frame: FrameType | None) -> None:
        if told.is_set():
            if grace_s is not None:
                end()
            raise KeyboardInterrupt
        told.set()
        with suppress(OSError):
            os.write(2, f"\n{LINE}\n".encode())
        if grace_s is not None:
            timer = threading.Timer(grace_s, end)
            timer.daemon = True
            timer.start()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, hear)
    try:
        yield told
    finally:
        signal.signal(signal.SIGINT, before)


def end() -> None:
    """End this process and everything it started, without asking any of them."""
    import psutil

    with suppress(psutil.Error):
        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                child.kill()
    with suppress(Exception):
        sys.stderr.flush()
    os._exit(EXIT_CODE)
