"""A run directory: one process at a time, every step it made or reused, links to their files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

from filelock import FileLock, Timeout

from edgevit.errors import InputError
from edgevit.files import publish, reason, replace_folder
from edgevit.run.step import Step, read_step, step_key
from edgevit.run.store import Make, find_or_make, full_disk_explained, place, shared_store

STAGES = "stages"


class WouldRun(Exception):  # noqa: N818 - not an error: how a dry run learns that a step is not cached
    """Raised by a dry run at the first step that would do work."""


@dataclass(frozen=True)
class Run:
    """An opened, locked run directory, and the store its steps lie in. Without a folder nothing is published."""

    folder: Path | None
    store: Path
    dry: bool = False
    _made: dict[str, Step] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    @property
    def steps(self) -> tuple[Step, ...]:
        """Every step made or reused so far, in order, each once."""
        with self._lock:
            return tuple(self._made.values())

    @property
    def unfinished(self) -> Path:
        """Where a long step leaves what a stopped run goes on from."""
        return self.store / "unfinished"

    def step(self, stage: str, inputs: Mapping[str, Any], make: Make) -> Step:
        """Return a step of the store, or run `make(folder)` and keep the files it writes there.

        `inputs` must be JSON values that decide the result: parameters, hashes of files, keys of earlier
        steps, versions of vendor tools. `make` returns the metrics to record. A failing `make` leaves nothing. A
        step is as it was when first asked for: its files are checked once, and it is `cached` or it is not.
        """
        key = step_key(stage, inputs)
        with self._lock:
            known = self._made.get(key)
        if known is not None:
            return known
        if self.dry:
            step = read_step(place(self.store, stage, key), stage, key)
            if step is None:
                raise WouldRun(stage)
        else:
            logs = (self.folder or self.store) / "logs"
            step = find_or_make(self.store, stage, key, inputs, make, logs)
            self._publish(step)
        with self._lock:
            return self._made.setdefault(key, step)

    def _publish(self, step: Step) -> None:
        """Link a step's files into the run's folder, which stays readable wherever it is moved."""
        if self.folder is None or step.folder.parent == self.folder / STAGES:
            return
        final = self.folder / STAGES / step.folder.name
        if read_step(final, step.stage, step.key) is not None:
            return
        staging = final.with_name(f".{final.name}.linking")
        shutil.rmtree(staging, ignore_errors=True)
        with full_disk_explained(self.folder, "Make room or choose another folder with --out"):
            for name in (*step.outputs, "step.json"):
                publish(step.path(name), staging / name)
            replace_folder(staging, final)

    def forget_others(self) -> None:
        """Remove the links to steps of earlier runs in this folder; the store still has them."""
        if self.folder is None or self.store == self.folder / STAGES:
            return
        kept = {step.folder.name for step in self.steps}
        for each in (self.folder / STAGES).glob("*"):
            if each.name not in kept:
                shutil.rmtree(each, ignore_errors=True)


@contextmanager
def open_run(folder: Path | None, *, dry: bool = False) -> Iterator[Run]:
    """Create and lock a run directory. Raises InputError if it can't be written or is in use.

    Without a folder steps are only kept in the store. Where the user's store can't be written, the run's folder
    holds its own.
    """
    if folder is None or dry:
        yield Run(folder, shared_store(), dry=dry)
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
        for leftover in (folder / STAGES).glob(".*"):  # a killed run's unfinished work
            shutil.rmtree(leftover, ignore_errors=True)
        yield Run(folder, usable_store(folder))
    finally:
        lock.release()


def usable_store(folder: Path) -> Path:
    """The user's store, or a run's own where the user's can't be written."""
    try:
        store = shared_store()
        if os.access(store, os.W_OK | os.X_OK):
            return store
    except InputError:
        pass
    own = folder / STAGES
    own.mkdir(parents=True, exist_ok=True)
    return own
