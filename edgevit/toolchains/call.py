"""Calls into a vendor's toolchain: one process a call, whatever happens inside it.

The worker gets a folder with request.json. It appends JSON lines to events.jsonl ({"stage"}, {"done", "total"},
{"warning"}) and writes result.json last: {"ok": {...}} or {"error": type, "message": text}. Everything printed,
by native code too, goes to log.txt. A worker that dies without a result was aborted; the parent says by what.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgevit.errors import ToolchainError, ToolFailed
from edgevit.progress import QUIET, Progress
from edgevit.run.memory import give_back, owned
from edgevit.toolchains import environment

POLL_SECONDS = 0.05
GRACE_SECONDS = 3.0
OWN_WORDS = r"edgevit: |[IW]\d{4} "  # the workers' marks of a new stage; remarks of Google's loggers
LAST_WORDS_BYTES = 64 * 1024
MISSING_MODULE = ("ModuleNotFoundError", "ImportError")


def run_job(
    toolchain: str,
    call: str,
    args: dict[str, Any],
    job_dir: Path,
    *,
    progress: Progress = QUIET,
    timeout_s: float,
) -> dict[str, Any]:
    """Run one call of a toolchain's worker in `job_dir` (made if absent) and return its result.

    `args` are JSON values; paths in them should be absolute. Raises ToolchainError when the toolchain is missing
    or damaged, or `timeout_s` seconds passed; ToolFailed when the vendor's code raised or exited, or was aborted.
    """
    give_back()
    python, title = environment.python_of(toolchain), environment.title(toolchain)
    job_dir.mkdir(parents=True, exist_ok=True)
    for name in ("result.json", "events.jsonl", "log.txt"):
        (job_dir / name).unlink(missing_ok=True)
    request = {"call": call, "args": args, "borrowed": environment.borrowed(toolchain)}
    (job_dir / "request.json").write_text(json.dumps(request), encoding="utf-8")
    events = Events(job_dir / "events.jsonl", progress)
    with (
        (job_dir / "log.txt").open("ab") as log,
        started(python, environment.worker(toolchain), job_dir, log) as process,
    ):
        deadline = time.monotonic() + timeout_s
        while process.poll() is None:
            events.forward()
            if time.monotonic() > deadline:
                raise ToolchainError(*ended(title, events, job_dir, f"no result after {timeout_s:.0f} s"))
            time.sleep(POLL_SECONDS)
    events.forward()
    return result_of(toolchain, title, process.returncode, events, job_dir)


@contextmanager
def started(python: Path, script: Path, job_dir: Path, log: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A worker process in a group of its own, ended with the block whatever ends the block."""
    process = subprocess.Popen(
        [python, "-I", environment.START, str(os.getpid()), script.resolve(), job_dir.resolve()],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        cwd=job_dir,
        env={**os.environ, "PYTHONPATH": "", "PYTHONNOUSERSITE": "1"},
        start_new_session=True,
    )
    try:
        with owned(process.pid):
            yield process
    finally:
        end_group(process)


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End a worker and whatever it started: politely, then for good, a second Ctrl-C included."""
    try:
        signal_group(process, signal.SIGTERM)
        process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        pass
    finally:
        signal_group(process, signal.SIGKILL)
        process.wait()


def signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Signal every process of a worker's group; none may be left."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


@dataclass
class Events:
    """Reads a worker's events as they come and forwards them."""

    path: Path
    progress: Progress
    stage: str = "starting"
    position: int = 0
    partial: bytes = field(default=b"")

    def forward(self) -> None:
        """Pass on what was written since the last call; a line still being written waits."""
        try:
            with self.path.open("rb") as stream:
                stream.seek(self.position)
                data = stream.read()
        except FileNotFoundError:
            return
        self.position += len(data)
        *lines, self.partial = (self.partial + data).split(b"\n")
        for line in lines:
            try:
                event = json.loads(line)
            except ValueError:  # a vendor's thread may have written here; progress is not worth failing for
                continue
            if isinstance(event, dict):
                self._pass_on(event)

    def _pass_on(self, event: dict[str, Any]) -> None:
        if "stage" in event:
            self.stage = str(event["stage"])
            self.progress.advance(0, 0, self.stage)
        if "warning" in event:
            self.progress.warn(str(event["warning"]))
        if "done" in event:
            self.progress.advance(int(event["done"]), int(event.get("total", 0)), self.stage)


def result_of(toolchain: str, title: str, code: int, events: Events, job_dir: Path) -> dict[str, Any]:
    """The worker's result. ToolchainError where it misses its own modules, ToolFailed for other bad endings."""
    try:
        result = json.loads((job_dir / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ToolFailed(*ended(title, events, job_dir, ending(code))) from None
    if "ok" in result:
        return dict(result["ok"])
    kind, message = str(result.get("error")), " ".join(str(result.get("message")).split())
    if kind in MISSING_MODULE:
        raise ToolchainError(
            f"cannot use the {toolchain} toolchain",
            f"it is damaged ({message})",
            f'Run "edgevit toolchain install {toolchain}"',
        )
    what = f"exited ({message})" if kind == "SystemExit" else shorten(message) or kind
    raise ToolFailed(*ended(title, events, job_dir, what))


def ending(code: int) -> str:
    """How a process without a result ended."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code} and no result"


def ended(title: str, events: Events, job_dir: Path, why: str) -> tuple[str, str, str]:
    """What failed, why and what to do, for a call that gave no result: the log's last words and path."""
    log = job_dir / "log.txt"
    words = last_words(log)
    known = words and words not in why
    return (
        f"{title} failed in stage {events.stage!r}",
        f"{why}; it last said: {words}" if known else why,
        f"See {log}",
    )


def last_words(log: Path) -> str:
    """The last line of a log that says something went wrong, else its last line; at most 200 characters."""
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - LAST_WORDS_BYTES))
        lines = [" ".join(line.split()) for line in stream.read().decode(errors="replace").splitlines()]
    spoken = [
        line
        for line in lines
        if re.search(r"\w", line) and not re.match(OWN_WORDS, line) and "deprecated" not in line
    ]
    wrong = [line for line in spoken if line.startswith(("E ", "F ")) or "rror" in line or "verflow" in line]
    return shorten((wrong or spoken or [""])[-1])


def shorten(text: str) -> str:
    """At most 200 characters: vendors put whole traces into one message; its end names the cause."""
    return text if len(text) <= 200 else "..." + text[-197:]
