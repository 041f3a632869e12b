"""A run directory: one process at a time, steps cached by content, nothing half-written in its place."""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from edgevit.errors import EdgevitError, InputError
from edgevit.files import reason, replace_folder, sha256_file, write_atomically
from edgevit.run.memory import peak_memory

# Pixel arrays run to gigabytes: hashing them at every reuse would take longer than the work saved.
MAX_REHASHED_BYTES = 64 * 2**20
NEARLY_FULL_BYTES = 32 * 2**20
READERS = {"bench", "cli", "predict", "report", "run/reading.py", "toolchains/doctor.py"}


class WouldRun(Exception):  # noqa: N818 - not an error: how a dry run learns that a step is not cached
    """Raised by a dry run at the first step that would do work."""


@dataclass(frozen=True)
class Step:
    """One finished stage: its folder, what went in (hashed into `key`), what came out, what it cost."""

    stage: str
    key: str
    folder: Path
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Mapping[str, Any]]
    metrics: Mapping[str, Any]
    seconds: float
    peak_memory_mb: int
    cached: bool

    def path(self, name: str) -> Path:
        """Path of one of the step's files."""
        return self.folder / name

    def to_json(self) -> dict[str, Any]:
        """The manifest's record of this step."""
        return {**asdict(self), "folder": self.folder.name}


@dataclass(frozen=True)
class Run:
    """An opened, locked run directory."""

    folder: Path
    dry: bool = False

    def step(self, stage: str, inputs: Mapping[str, Any], make: Callable[[Path], Mapping[str, Any]]) -> Step:
        """Return the cached result of a stage, or run `make(folder)` and keep the files it writes there.

        `inputs` must be JSON values that decide the result: parameters, hashes of files, keys of earlier
        steps, versions of tools. `make` returns the metrics to record. A failing `make` leaves nothing.
        """
        key = step_key(stage, inputs)
        final = self.folder / "stages" / f"{stage}-{key[:12]}"
        if (cached := read_step(final, stage, key)) is not None:
            return cached
        if self.dry:
            raise WouldRun(stage)
        staging = final.with_name(f".{final.name}.{secrets.token_hex(4)}")
        staging.mkdir(parents=True)
        try:
            return self._run(stage, key, inputs, make, staging, final)
        except EdgevitError as error:
            kept = self._keep_logs(staging, stage)
            raise type(error)(
                *(part.replace(str(staging), str(kept)) for part in (error.what, error.why, error.fix))
            ) from error
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _run(
        self,
        stage: str,
        key: str,
        inputs: Mapping[str, Any],
        make: Callable[[Path], Mapping[str, Any]],
        staging: Path,
        final: Path,
    ) -> Step:
        started = time.monotonic()
        with peak_memory() as memory, full_disk_explained(self.folder):
            metrics = make(staging)
            outputs = {
                str(path.relative_to(staging)): {"sha256": sha256_file(path), "bytes": path.stat().st_size}
                for path in sorted(staging.rglob("*"))
                if path.is_file()
            }
            seconds = round(time.monotonic() - started, 3)
            step = Step(stage, key, final, inputs, outputs, metrics, seconds, memory.peak_mb, cached=False)
            write_atomically(staging / "step.json", json.dumps(step.to_json(), indent=1))
            replace_folder(staging, final)
        return step

    def _keep_logs(self, staging: Path, stage: str) -> Path:
        """Save a failed stage's logs, which are what the user needs, from the folder that goes; return where."""
        kept = self.folder / "logs" / stage
        for log in staging.glob("**/log.txt"):
            copy = kept / log.relative_to(staging)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(log, copy)
        return kept


@contextmanager
def open_run(folder: Path, *, dry: bool = False) -> Iterator[Run]:
    """Create and lock a run directory. Raises InputError if it can't be written or is in use."""
    if dry:
        yield Run(folder, dry=True)
        return
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise InputError(
            f"cannot write to {folder}", "another edgevit is using it", "Wait for it, or choose another --out"
        ) from None
    except OSError as error:
        raise InputError(
            f"cannot write to {folder}", reason(error), "Choose another folder with --out"
        ) from None
    try:
        for leftover in (folder / "stages").glob(".*"):  # a killed run's unfinished work
            shutil.rmtree(leftover, ignore_errors=True)
        yield Run(folder)
    finally:
        lock.release()


@contextmanager
def full_disk_explained(folder: Path) -> Iterator[None]:
    """Any failure on a full disk is the disk's fault, whatever the tool that hit it says."""
    try:
        yield
    except (EdgevitError, OSError, RuntimeError) as error:
        number = getattr(error, "errno", None)
        free = shutil.disk_usage(folder).free
        if number in FULL_DISK or free < NEARLY_FULL_BYTES:
            why = reason(error) if isinstance(error, OSError) else "the disk is full"
            raise EdgevitError(
                f"cannot write to {folder}",
                f"{why} ({free / 2**20:.0f} MB free)",
                "Make room or choose another folder with --out; finished stages are kept",
            ) from error
        raise


FULL_DISK = {28, 27, 122}  # ENOSPC, EFBIG (a file size limit), EDQUOT


def step_key(stage: str, inputs: Mapping[str, Any]) -> str:
    """Hex sha256 of a stage, its inputs and edgevit's code: a mended stage never returns an old result."""
    canonical = json.dumps([stage, inputs, code_fingerprint()], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


@cache
def code_fingerprint() -> str:
    """Hex sha256 over edgevit's own source, without the parts that only read what steps left."""
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*")):
        relative = path.relative_to(package)
        if path.suffix in {".py", ".txt"} and not READERS & {relative.parts[0], str(relative)}:
            digest.update(str(relative).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def read_step(folder: Path, stage: str, key: str) -> Step | None:
    """A cached step if it is whole; None if it is absent or its files are not what was recorded."""
    record_path = folder / "step.json"
    try:
        record = json.loads(record_path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if record.get("key") != key or not all(
        intact(folder / name, expected) for name, expected in record["outputs"].items()
    ):
        return None
    return Step(**{**record, "stage": stage, "folder": folder, "cached": True})


def intact(path: Path, expected: Mapping[str, Any]) -> bool:
    """Whether a file still has its recorded size and, unless it is very large, its recorded content."""
    if not path.is_file() or path.stat().st_size != expected["bytes"]:
        return False
    return bool(expected["bytes"] > MAX_REHASHED_BYTES or sha256_file(path) == expected["sha256"])
