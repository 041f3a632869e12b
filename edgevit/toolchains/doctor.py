"""What would fail on this machine, and how to mend it, found before an hour's work does."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import platformdirs
import psutil
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from edgevit.errors import EdgevitError
from edgevit.progress import QUIET, Progress
from edgevit.run.limits import container_room
from edgevit.targets.profiles import Board
from edgevit.toolchains import environment, installation, releases

State = Literal["ok", "note", "fails"]

# Measured peaks of whole runs: DeiT-Tiny 1.6 GB, ViT-Base for RKNN 4.4 GB.
SMALL_MODEL_MB, LARGE_MODEL_MB = 1800, 5000
RUN_MB = 1000
TEMPORARY_MB = 500
IMPORT_SECONDS = 300
CORE = "edgevit.torch_setup, timm, onnx, onnxruntime, onnxscript, onnxsim, onnxslim, safetensors.torch, scipy"
CLIENTS = {
    "ssh": ("boards over ssh", "sudo apt-get install openssh-client"),
    "adb": ("boards and phones over adb", "sudo apt-get install adb"),
}


@dataclass(frozen=True)
class Check:
    """One thing looked at: `state` is "fails" where a command would, "note" where only some would."""

    name: str
    state: State
    found: str
    fix: str | None = None

    def to_json(self) -> dict[str, str | None]:
        """Plain values for scripts."""
        return asdict(self)


def examine(out: Path, boards: Sequence[Board] = (), progress: Progress = QUIET) -> list[Check]:
    """Every check, in the order in which they would bite; `boards` are targets that must be possible here."""
    progress.stage("import packages")
    return [
        *python(),
        *packages(),
        *imports(),
        *toolchains(boards, progress),
        *memory(),
        *disks(out),
        *clients(),
    ]


def python() -> Iterator[Check]:
    """The interpreter and the system."""
    wanted = importlib.metadata.metadata("edgevit")["Requires-Python"]
    version = platform.python_version()
    fine = version in SpecifierSet(wanted or "")
    found = f"{version} on {platform.system()} {platform.machine()}"
    yield Check("Python", "ok" if fine else "fails", found, None if fine else f"Use Python {wanted}")


def packages() -> Iterator[Check]:
    """Installed versions against what edgevit asks for."""
    wrong = []
    wanted = [Requirement(text) for text in importlib.metadata.requires("edgevit") or ()]
    for need in wanted:
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        try:
            have = importlib.metadata.version(need.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{need.name} is not installed")
            continue
        if not need.specifier.contains(have, prereleases=True):
            wrong.append(f"{need.name} {have} is not {need.specifier}")
    if wrong:
        yield Check("packages", "fails", "; ".join(wrong), "Reinstall: pip install --upgrade edgevit")
        return
    versions = (f"{name} {importlib.metadata.version(name)}" for name in ("torch", "timm", "onnxruntime"))
    yield Check("packages", "ok", ", ".join(versions))


def imports() -> Iterator[Check]:
    """Whether the packages load together; in a process of its own, since native code can take it down."""
    command = [sys.executable, "-c", f"import {CORE}"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=IMPORT_SECONDS
        )
    except subprocess.TimeoutExpired:
        yield Check(
            "imports", "fails", f"did not finish in {IMPORT_SECONDS} s", "Check the disk and the load"
        )
        return
    if done.returncode == 0:
        yield Check("imports", "ok", "torch, timm and the ONNX packages load together")
        return
    lines = done.stderr.strip().splitlines() or [f"ended with exit code {done.returncode}"]
    yield Check("imports", "fails", lines[-1][:300], "Reinstall: pip install --force-reinstall edgevit")


def toolchains(boards: Sequence[Board], progress: Progress) -> Iterator[Check]:
    """Each converter: files whole, and importable with this torch. Missing only fails for a wanted target."""
    wanted = {board.toolchain for board in boards}
    for state in environment.list_toolchains():
        install, needed = f"edgevit toolchain install {state.name}", state.name in wanted
        if state.impossible:
            yield Check(state.name, "fails" if needed else "note", state.impossible)
        elif not state.installed:
            if needed or "@" not in state.name:  # an older release is nobody's need until a board asks for it
                missing = f"{state.title}: not installed"
                yield Check(state.name, "fails" if needed else "note", missing, f"Run: {install}")
        elif state.problem:
            yield Check(state.name, "fails", f"{state.title}: damaged: {state.problem}", f"Run: {install}")
        else:
            progress.stage(f"import {state.title}")
            yield importable(state)


def importable(state: environment.State) -> Check:
    """Whether an installed toolchain imports, with the torch that is here now where it borrows it."""
    try:
        installation.prove(releases.find(state.name), environment.folder(state.name))
    except EdgevitError as error:
        return Check(state.name, "fails", error.why, f"Run: edgevit toolchain install {state.name}")
    found = f"{state.title}: whole, and it imports; Python {state.python} of {state.interpreter}"
    return Check(state.name, "ok", found)


def memory() -> Iterator[Check]:
    """Memory that could be had now, within a container's limit."""
    free = psutil.virtual_memory().available // 2**20
    left = container_room()
    limit = None if left is None else left // 2**20
    if limit is not None:
        free = min(free, limit)
    found = f"{free} MB available" + (
        f", {limit} MB left of the container's limit" if limit is not None else ""
    )
    if free < SMALL_MODEL_MB:
        yield Check("memory", "fails", found, f"Free some: even DeiT-Tiny needs {SMALL_MODEL_MB} MB")
    elif free < LARGE_MODEL_MB:
        yield Check(
            "memory", "note", found, f"ViT-Base for RKNN needs {LARGE_MODEL_MB} MB; smaller models fit"
        )
    else:
        yield Check("memory", "ok", found)


def disks(out: Path) -> Iterator[Check]:
    """Room and permission where edgevit writes."""
    usual = [known[0] for known in releases.RELEASES.values()]
    needed = max(release.needed_mb for release in usual)
    installed = all(environment.folder(release.spec).is_dir() for release in usual)
    yield room("toolchain folder", environment.root(), 0 if installed else needed, "EDGEVIT_TOOLCHAINS")
    yield room("run folder", out, RUN_MB, "--out")
    yield room("temporary folder", Path(tempfile.gettempdir()), TEMPORARY_MB, "TMPDIR")
    yield room("log folder", Path(platformdirs.user_log_dir("edgevit")), 1, "XDG_STATE_HOME")


def room(name: str, folder: Path, needed_mb: int, variable: str) -> Check:
    """One folder: it can be written to, or made, and has room."""
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(there).free // 2**20
    found = f"{free} MB free for {folder}"
    elsewhere = f"give another place by {variable}"
    if not os.access(there, os.W_OK | os.X_OK):
        return Check(name, "fails", f"{there} can't be written to", f"Allow it, or {elsewhere}")
    if free < needed_mb:
        return Check(name, "fails", found, f"Make room ({needed_mb} MB are needed), or {elsewhere}")
    return Check(name, "ok", found)


def clients() -> Iterator[Check]:
    """The programs that reach boards."""
    for name, (purpose, install) in CLIENTS.items():
        path = shutil.which(name)
        if path:
            yield Check(name, "ok", path)
        else:
            yield Check(name, "note", f"not installed; {purpose} can't be reached", f"Run: {install}")
