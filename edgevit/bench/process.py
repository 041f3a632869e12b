"""A program on this machine whose lines are wanted as they come: the ssh and adb clients, the runner itself."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from edgevit.bench.transport import Completed, TransportError

LAST_WORDS_SECONDS = 5.0
PULSE_SECONDS = 1.0
TIED = Path(__file__).with_name("die_with_parent.py")


def converse(
    what: str,
    command: Sequence[str],
    timeout_s: float,
    stdin: str,
    on_line: Callable[[str], None],
    *,
    pulses: bool = False,
) -> Completed:
    """Run a program with `stdin`, pass its lines on as they come; it ends with edgevit, however that ends.

    With `pulses` its input stays open and gets an empty line a second, so that whoever reads it knows that edgevit
    and the connection are alive. Raises TransportError after `timeout_s` seconds.
    """
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", str(TIED), str(os.getpid()), *command],
        stdin=subprocess.PIPE if stdin or pulses else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
    )
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    errors: list[str | None] = []
    threads = [
        threading.Thread(target=forward, args=(process.stdout, lines.put), daemon=True),
        threading.Thread(target=forward, args=(process.stderr, errors.append), daemon=True),
        threading.Thread(target=beat if pulses else feed, args=(process, stdin), daemon=True),
    ]
    for thread in threads:
        thread.start()
    try:
        out = collect(lines, time.monotonic() + timeout_s, on_line)
        if out is None:
            raise TransportError(
                f"{what} did not finish",
                f"{timeout_s:.0f} s passed",
                "Check the board's load, then run the command again",
            )
        code = process.wait()
    finally:
        process.kill()
        process.wait()
    threads[1].join(LAST_WORDS_SECONDS)
    return Completed(code if code >= 0 else 128 - code, out, "".join(line for line in errors if line))


def collect(
    lines: queue.SimpleQueue[str | None], deadline: float, on_line: Callable[[str], None]
) -> str | None:
    """All output up to the None that ends it, each line passed on as it comes; None after the deadline."""
    kept: list[str] = []
    while True:
        try:
            line = lines.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            return None
        if line is None:
            return "".join(kept)
        kept.append(line)
        on_line(line.rstrip("\r\n"))


def forward(stream: IO[str] | None, take: Callable[[str | None], None]) -> None:
    """Pass each line of a pipe on, then None."""
    for line in stream or ():
        take(line)
    take(None)


def feed(process: subprocess.Popen[str], text: str) -> None:
    """Write a process's input and close it; it may have ended without reading."""
    if process.stdin is not None:
        try:
            process.stdin.write(text)
            process.stdin.close()
        except (BrokenPipeError, ValueError):
            return


def beat(process: subprocess.Popen[str], text: str) -> None:
    """Write `text`, then an empty line a second for as long as the process takes them."""
    if process.stdin is None:
        return
    try:
        process.stdin.write(text)
        while process.poll() is None:
            process.stdin.write("\n")
            process.stdin.flush()
            time.sleep(PULSE_SECONDS)
        process.stdin.close()
    except (OSError, ValueError):
        return
