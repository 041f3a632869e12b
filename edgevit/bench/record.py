"""What came back from the board, as it is saved in the run's folder."""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgevit.bench.choose import Artefact
from edgevit.bench.transport import Transport
from edgevit.files import write_atomically
from edgevit.run.measurement import FORMAT

# Of a measurement by a program that touches no clocks.
FLOATING = {"pinned": False, "before": {}, "after": {}, "throttled": None}
NOT_KEPT = ("images", "tensors", "layer_times")
Floats = npt.NDArray[np.float32]


def record_of(
    artefact: Artefact, transport: Transport, found: dict[str, Any], folder: Path, request: dict[str, Any]
) -> dict[str, Any]:
    """The measurement as it is saved."""
    result = artefact.result
    here = transport.name == "host"
    record = {
        "format": FORMAT,
        "where": transport.name,
        "artefact": artefact.path.name,
        "target": result.target if result else None,
        "precision": result.precision if result else None,
        "how": "host CPU" if here else f"measured on {found['machine']['model']}",
        **{key: value for key, value in found.items() if key not in NOT_KEPT},
        "layers": layers(artefact, found.get("layer_times")),
        "accuracy": None,
        "same_as_local": None,
        "settings": {key: request[key] for key in ("runs", "seconds", "warm_up", "threads", "images")},
        "tensors": None,
        "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    if found.get("images"):
        outputs = np.load(folder / "outputs.npy", allow_pickle=False)
        record["accuracy"] = accuracy(artefact, outputs)
        record["same_as_local"] = same_as_local(artefact, outputs)
    if found.get("tensors"):
        record["tensors"] = f"{file_name(record)}-tensors.npz"
    return record


def layers(artefact: Artefact, table: str | None) -> list[dict[str, Any]]:
    """The runtime's own times, layer by layer, where it gave a table that can be read."""
    read = artefact.backend.on_board.layer_times
    return read(table) if read is not None and table else []


def accuracy(artefact: Artefact, outputs: Floats) -> dict[str, Any] | None:
    """Against the float reference on the same images, where the run still has it."""
    assert artefact.run is not None
    run, validation = artefact.run, artefact.run.validation_of(artefact.step)
    try:
        reference = run.array(run.manifest.stage("float"), "outputs.npy")[: len(outputs)]
        labelled = bool(validation and validation.metrics.get("labelled"))
        labels = run.array(validation, "labels.npy")[: len(outputs)] if labelled else None
    except LookupError:
        return None
    gives = run.manifest.model.gives
    return gives.compare(
        outputs, np.asarray(reference), None if labels is None else np.asarray(labels)
    ).to_json()


def same_as_local(artefact: Artefact, outputs: Floats) -> dict[str, Any] | None:
    """Against what the run's own evaluation of this artefact (simulator, host) said for the same images."""
    assert artefact.run is not None
    try:
        local = artefact.run.array(artefact.step, "outputs.npy")[: len(outputs)]
    except LookupError:
        return None
    return {
        "n": len(outputs),
        "agree": round(artefact.run.manifest.model.gives.difference(outputs, local).agreement * len(outputs)),
        "max_output_difference": float(np.abs(local - outputs).max()),
    }


def file_name(record: dict[str, Any]) -> str:
    """A name for a measurement: where and what; the same again replaces the last one."""
    words = f"{record['where']}-{Path(record['artefact']).stem}"
    return re.sub(r"[^A-Za-z0-9._-]+", "_", words).strip("._-")


def save(run: Path, record: dict[str, Any], folder: Path) -> Path:
    """Write the measurement, and its tensors, into the run directory."""
    bench = run / "bench"
    bench.mkdir(exist_ok=True)
    if record["tensors"]:
        staging = bench / f".{record['tensors']}.tmp"
        shutil.copyfile(folder / "tensors.npz", staging)
        staging.replace(bench / record["tensors"])
    path = bench / f"{file_name(record)}.json"
    write_atomically(path, json.dumps(record, indent=1))
    return path
