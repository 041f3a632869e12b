"""A runner built for boards without Python: copied there, run once, removed. It says what on_board.py says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgevit.backends.registry import backends
from edgevit.bench.record import FLOATING
from edgevit.bench.remote_folder import expect, remote_folder
from edgevit.bench.transport import Transport, TransportError
from edgevit.errors import InputError
from edgevit.progress import Progress

NAME = "edgevit_runner"


def write_sources(out: Path) -> list[str]:
    """Write every backend's runner, with what builds it, into a folder; the files' names.

    Raises InputError for files that are there already.
    """
    sources = [path for each in backends() for path in each.on_board.native_runner]
    for path in sources:
        if (out / path.name).exists():
            what = f"cannot write {out / path.name}"
            raise InputError(what, "the file is there already", "Choose another folder with --out")
    out.mkdir(parents=True, exist_ok=True)
    for path in sources:
        shutil.copyfile(path, out / path.name)
    return [path.name for path in sources]


def measure(
    transport: Transport,
    binary: Path,
    files: Mapping[str, Path],
    request: Mapping[str, Any],
    out: Path,
    progress: Progress,
    *,
    work_folder: str | None = None,
    limit_s: float,
) -> dict[str, Any]:
    """Run the native runner `binary` on a board; its result, as `session.measure` gives it.

    `files` and `request` are those of `prepare`. Outputs are copied into `out`. Raises TransportError with the
    runner's own reason; the work folder is removed in any case.
    """
    with remote_folder(transport, work_folder) as work:
        pixels = request["pixels"]
        progress.stage(f"copy {request['title']} to {transport.name}")
        for name in (request["artefact"], *([pixels] if pixels else [])):
            transport.push(files[name], f"{work}/{name}")
        transport.push(binary, f"{work}/{NAME}")
        expect(transport, ["chmod", "755", f"{work}/{NAME}"])
        progress.stage(f"measure {request['title']} on {transport.name}")
        words = [
            *(f"{work}/{NAME}", f"{work}/{request['artefact']}", f"{work}/{pixels}" if pixels else "-"),
            *(
                f"{work}/outputs.npy",
                *(str(request[key]) for key in ("runs", "seconds", "warm_up", "npu_cores")),
            ),
            *(request["libraries"] or ()),
        ]
        done = transport.run(words, timeout_s=limit_s)
        said = last_words(done.out)
        if "result" not in said:
            why = (
                said.get("error", {}).get("why")
                or (done.err.strip().splitlines() or [f"exit code {done.code}"])[-1]
            )
            raise TransportError(
                f"cannot measure on {transport.name}",
                str(why).rstrip("."),
                "Check its runtime library and driver",
            )
        if said["result"]["images"]:
            transport.pull(f"{work}/outputs.npy", out / "outputs.npy")
    return {**said["result"], "clocks": dict(FLOATING)}


def last_words(text: str) -> dict[str, Any]:
    """The last line that is a JSON object; empty where there is none."""
    for line in reversed(text.splitlines()):
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict):
            return found
    return {}
