"""The content store: finished steps by what went into them, shared by every run of one user.

A step is made once, under a lock of its own, and is whole or absent. Runs hold links to the steps they used.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from edgevit.errors import EdgevitError, InputError
from edgevit.files import reason, replace_folder, sha256_file, user_cache, write_atomically
from edgevit.run.memory import peak_memory
from edgevit.run.step import Step, read_step

NEARLY_FULL_BYTES = 32 * 2**20
FULL_DISK = {28, 27, 122}  # ENOSPC, EFBIG (a file size limit), EDQUOT
VARIABLE = "EDGEVIT_CACHE"
LOCKS = ".locks"
DAY_S = 86400.0
CLEAN = f"Make room (edgevit cache clean), or set {VARIABLE} to another folder"

Make = Callable[[Path], Mapping[str, Any]]


def shared_store() -> Path:
    """The user's store, made if it isn't there: $EDGEVIT_CACHE, else in the user's cache. Raises InputError."""
    chosen = os.environ.get(VARIABLE)
    if not chosen:
        return user_cache("stages")
    folder = Path(chosen).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot use {VARIABLE} {folder}", reason(error), "Choose another folder") from None
    return folder


def place(store: Path, stage: str, key: str) -> Path:
    """Where a step lies, or will."""
    return store / f"{stage}-{key[:12]}"


def find_or_make(
    store: Path, stage: str, key: str, inputs: Mapping[str, Any], make: Make, logs: Path
) -> Step:
    """A step of the store, made by `make(folder)` where it isn't there. A failing `make` leaves only its logs."""
    final = place(store, stage, key)
    with FileLock(lock_of(final)):
        if (cached := read_step(final, stage, key)) is not None:
            os.utime(final)
            return cached
        for leftover in store.glob(f".{final.name}.*"):  # a killed run's unfinished work
            shutil.rmtree(leftover, ignore_errors=True)
        staging = final.with_name(f".{final.name}.making")
        staging.mkdir()
        try:
            return made(stage, key, inputs, make, staging, final)
        except EdgevitError as error:
            kept = keep_logs(staging, logs / stage)
            raise type(error)(
                *(part.replace(str(staging), str(kept)) for part in (error.what, error.why, error.fix))
            ) from error
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def made(stage: str, key: str, inputs: Mapping[str, Any], make: Make, staging: Path, final: Path) -> Step:
    """Run a step in `staging`, record it, move it to its place."""
    started = time.monotonic()
    with peak_memory() as memory, full_disk_explained(final.parent, CLEAN):
        metrics = json.loads(json.dumps(make(staging)))  # as a later run will read them
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


def lock_of(final: Path) -> Path:
    """The lock of one step: two runs, or two targets of one, never make it at the same time."""
    folder = final.parent / LOCKS
    folder.mkdir(exist_ok=True)
    return folder / f"{final.name}.lock"


def keep_logs(staging: Path, kept: Path) -> Path:
    """Save a failed step's logs, which are what the user needs, from the folder that goes; return where."""
    for log in staging.glob("**/log.txt"):
        copy = kept / log.relative_to(staging)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(log, copy)
    return kept


@contextmanager
def full_disk_explained(folder: Path, fix: str) -> Iterator[None]:
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
                f"{fix}; finished steps are kept",
            ) from error
        raise


@dataclass(frozen=True)
class Contents:
    """What a store holds: finished steps, their bytes, and the days since the oldest was last used."""

    folder: Path
    steps: int
    bytes: int
    oldest_days: float


def contents(store: Path) -> Contents:
    """Count a store."""
    now, folders = time.time(), steps_in(store)
    ages = [(now - each.stat().st_mtime) / DAY_S for each in folders]
    return Contents(store, len(folders), sum(map(size_of, folders)), max(ages, default=0.0))


def clean(store: Path, older_than_days: float) -> Contents:
    """Remove steps that no run has used for so many days, and what killed runs left; return what went."""
    now = time.time()
    leftovers = [each for each in store.glob(".*") if each.is_dir() and each.name != LOCKS]
    old = [each for each in steps_in(store) if now - each.stat().st_mtime >= older_than_days * DAY_S]
    gone = Contents(store, len(old), sum(map(size_of, [*old, *leftovers])), older_than_days)
    for folder in old:
        with FileLock(lock_of(folder)):
            shutil.rmtree(folder, ignore_errors=True)
    for folder in leftovers:
        with FileLock(lock_of(folder.with_name(folder.name[1:].removesuffix(".making")))):
            shutil.rmtree(folder, ignore_errors=True)
    return gone


def steps_in(store: Path) -> list[Path]:
    """Folders of finished steps."""
    return [each for each in store.iterdir() if (each / "step.json").is_file()]


def size_of(folder: Path) -> int:
    """Bytes of the files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
