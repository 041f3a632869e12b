"""From a run directory to measurements in it: which artefacts, which images, what the numbers say."""

from __future__ import annotations

import json
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgevit.bench import benchmark_model, session
from edgevit.bench.connect import Place
from edgevit.bench.transport import Transport
from edgevit.boards.profiles import Board, load_board
from edgevit.errors import InputError
from edgevit.files import write_atomically
from edgevit.metrics.classification import compare
from edgevit.progress import Progress
from edgevit.run.reading import MANIFEST, RunFiles, preprocessing_of, read_run, step_of

FORMAT = 1
WHAT = "cannot measure"
SUFFIXES = (".rknn", ".tflite", ".onnx")
WARM_UP = 5
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Settings:
    """How long and on what to measure; `threads` None: 1, 2, 4 and so on up to the board's cores."""

    images: int | None = None
    threads: tuple[int, ...] | None = None
    runs: int = 50
    seconds: float = 10.0
    pin_clocks: bool = False
    dump_tensors: bool = False


@dataclass(frozen=True)
class Artefact:
    """A file to measure; `run` and `result` are None for one that no run directory knows."""

    path: Path
    run: RunFiles | None = None
    result: dict[str, Any] | None = None

    @property
    def step(self) -> dict[str, Any]:
        """The compile stage that made it."""
        return step_of(self.run, self.result) if self.run and self.result else {}

    @property
    def toolkit(self) -> str | None:
        """The version of rknn-toolkit2 that made it, where known."""
        version = ((self.step.get("metrics") or {}).get("tools") or {}).get("rknn-toolkit2")
        return str(version) if version else None


def choose(
    what: Path, place: Place, target: str | None = None, precision: str | None = None
) -> list[Artefact]:
    """The artefacts to measure: of a run, all of one target that can run at that place; else the file given.

    Raises InputError where nothing fits, or targets differ and it isn't said which.
    """
    if what.is_dir() or what.name == MANIFEST:
        return of_run(read_run(what, WHAT), place, target, precision)
    if what.suffix not in SUFFIXES:
        fix = f"Give a run directory, or a file ending in {', '.join(SUFFIXES)}"
        raise InputError(f"{WHAT} {what}", "it is neither a run nor an artefact", fix)
    if not what.is_file():
        raise InputError(f"{WHAT} {what}", "no such file", "Check the path")
    refuse_npu_here([what], place)
    run = read_run(what.parent, WHAT) if (what.parent / MANIFEST).is_file() else None
    results = run.manifest["results"] if run else []
    return [Artefact(what, run, next((each for each in results if each.get("artefact") == what.name), None))]


def of_run(run: RunFiles, place: Place, target: str | None, precision: str | None) -> list[Artefact]:
    """A run's artefacts of one target."""
    results = run.manifest["results"]
    wanted = target or (place.profile if any(r["target"] == place.profile for r in results) else None)
    found = [
        each
        for each in results
        if wanted in (None, each["target"])
        and precision in (None, each["precision"])
        and each.get("artefact")
    ]
    made = ", ".join(f"{each['target']} {each['precision']}" for each in results) or "nothing"
    if not found:
        raise InputError(f"{WHAT} {run.folder}", "it made no such artefact", f"Choose from {made}")
    if place.address == "host":
        refuse_npu_here([Path(each["artefact"]) for each in found], place)
        found = [each for each in found if not each["artefact"].endswith(".rknn")]
    targets = list(dict.fromkeys(each["target"] for each in found))
    if len(targets) > 1 and place.address != "host":
        raise InputError(
            f"cannot choose what to measure of {run.folder}",
            f"it has artefacts for {', '.join(targets)}",
            f"Say which: --target {targets[0]}, or profile in boards.toml",
        )
    paths = [run.folder / Path(each["artefact"]).name for each in found]
    for path in paths:
        if not path.is_file():
            raise InputError(
                f"{WHAT} {path}", "the file is gone", "Run edgevit convert again with this --out"
            )
    return [Artefact(path, run, each) for path, each in zip(paths, found, strict=True)]


def refuse_npu_here(paths: Sequence[Path], place: Place) -> None:
    """Raise InputError if all that is left to measure on this machine is for an NPU."""
    if place.address == "host" and all(path.suffix == ".rknn" for path in paths):
        raise InputError(
            f"{WHAT} {paths[0].name} on this machine",
            "a .rknn runs on its Rockchip NPU only",
            "Give the board with --board ssh://user@address",
        )


def measure(
    artefact: Artefact, place: Place, transport: Transport, settings: Settings, progress: Progress
) -> dict[str, Any]:
    """Measure one artefact; returns the record and, where a run made the artefact, saves it in RUN/bench.

    Raises InputError before anything is sent, TransportError for what is wrong on the board.
    """
    board = profile(artefact, place)
    if settings.pin_clocks:
        refuse_no_clocks(board)
    with tempfile.TemporaryDirectory(prefix="edgevit-bench-") as name:
        folder = Path(name)
        files, request = prepare(artefact, board, settings, folder)
        found = session.measure(
            transport,
            files,
            request,
            folder,
            progress,
            python=python_for(artefact, place),
            work_folder=place.work_folder,
            limit_s=time_limit_s(settings, request),
        )
        record = record_of(artefact, transport, found, folder, request)
        if artefact.run is not None and artefact.result is not None:
            save(artefact.run.folder, record, folder)
    return record


def refuse_no_clocks(board: Board | None) -> None:
    """Raise InputError if nobody says where the clocks to pin are."""
    if board is None or not any(clock.pin for clock in board.clocks.values()):
        raise InputError(
            "cannot pin clocks",
            f"the profile {board.id} names none" if board else "no board profile is known for this artefact",
            "Give the board a profile with [clocks] in boards.toml (edgevit boards new NAME)",
        )


def profile(artefact: Artefact, place: Place) -> Board | None:
    """The board profile: of boards.toml, else the one the artefact was made for."""
    if place.profile:
        return load_board(place.profile)
    if artefact.run is None or artefact.result is None:
        return None
    values = (artefact.run.manifest.get("boards") or {}).get(artefact.result["target"])
    return Board.model_validate(values) if values else None


def python_for(artefact: Artefact, place: Place) -> str:
    """The Python to run with: on this machine the one that has the runtime."""
    if place.python:
        return place.python
    if place.address != "host":
        return "python3"
    if artefact.path.suffix == ".tflite":
        from edgevit.toolchains import environment

        return str(environment.python_of("litert"))
    return sys.executable


def time_limit_s(settings: Settings, request: dict[str, Any]) -> float:
    """Generous: ten settings, slow inferences, slow copies."""
    return 1800 + 10 * settings.seconds + 20.0 * (int(request["images"]) + 10 * settings.runs)


def prepare(
    artefact: Artefact, board: Board | None, settings: Settings, folder: Path
) -> tuple[dict[str, Path], dict[str, Any]]:
    """Files for the board by their names there, and the runner's request."""
    name = f"model{artefact.path.suffix}"
    files = {name: artefact.path}
    preprocessing = preprocessing_of(artefact.run, artefact.step) if artefact.run else {}
    n = write_images(artefact, settings, folder / "pixels.npy")
    if n:
        files["pixels.npy"] = folder / "pixels.npy"
    if settings.dump_tensors and artefact.path.suffix == ".onnx":
        files["all.onnx"] = expose_all(artefact.path, folder / "all.onnx")
    clocks = {} if board is None else {key: each.model_dump() for key, each in board.clocks.items()}
    request = {
        "title": artefact.path.name,
        "artefact": name,
        "pixels": "pixels.npy" if n else None,
        "images": n,
        "shape": [*preprocessing["size"], len(preprocessing["channels"])] if preprocessing else None,
        "mean": [255 * value for value in preprocessing.get("mean", (0.5, 0.5, 0.5))],
        "std": [255 * value for value in preprocessing.get("std", (0.5, 0.5, 0.5))],
        "threads": settings.threads,
        "runs": settings.runs,
        "seconds": settings.seconds,
        "warm_up": WARM_UP,
        "npu_cores": board.npu.cores if board and board.npu else 1,
        "clocks": clocks,
        "temperature": list(board.temperature) if board else [],
        "pin": settings.pin_clocks,
        "dump": "all.onnx" if settings.dump_tensors else None,
        "toolkit": artefact.toolkit,
    }
    return files, request


def write_images(artefact: Artefact, settings: Settings, out: Path) -> int:
    """The first validation images as the artefact takes them, uint8; how many. 0: latency only."""
    if artefact.run is None or settings.images == 0:
        return 0
    step = artefact.run.stage_by_key((artefact.step.get("inputs") or {}).get("validation"))
    try:
        pixels = artefact.run.array(step, "pixels.npy")
    except LookupError:
        if settings.images:
            raise InputError(
                f"cannot measure accuracy of {artefact.path.name}",
                "its run has no validation images any more",
                "Run edgevit convert again with --validation, or give --images 0",
            ) from None
        return 0
    chosen = pixels[: settings.images]
    np.save(out, chosen)
    return len(chosen)


def expose_all(model: Path, out: Path) -> Path:
    """A copy of an ONNX model whose every tensor is an output."""
    import onnx

    graph = onnx.load(str(model))
    known = {each.name for each in graph.graph.output}
    for node in graph.graph.node:
        for name in node.output:
            if name and name not in known:
                graph.graph.output.append(onnx.ValueInfoProto(name=name))
                known.add(name)
    onnx.save(graph, str(out))
    return out


def record_of(
    artefact: Artefact, transport: Transport, found: dict[str, Any], folder: Path, request: dict[str, Any]
) -> dict[str, Any]:
    """The measurement as it is saved."""
    result = artefact.result or {}
    here = transport.name == "host"
    record = {
        "format": FORMAT,
        "where": transport.name,
        "artefact": artefact.path.name,
        "target": result.get("target"),
        "precision": result.get("precision"),
        "how": "host CPU" if here else f"measured on {found['machine']['model']}",
        **{key: value for key, value in found.items() if key not in ("images", "tensors")},
        "accuracy": None,
        "same_as_local": None,
        "settings": {key: request[key] for key in ("runs", "seconds", "warm_up", "threads", "images")},
        "tensors": None,
        "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    if found.get("images"):
        logits = np.load(folder / "logits.npy", allow_pickle=False)
        record["accuracy"] = accuracy(artefact, logits)
        record["same_as_local"] = same_as_local(artefact, logits)
    if found.get("tensors"):
        record["tensors"] = f"{file_name(record)}-tensors.npz"
    return record


def accuracy(artefact: Artefact, logits: Floats) -> dict[str, Any] | None:
    """Against the float reference on the same images, where the run still has it."""
    assert artefact.run is not None
    validation = artefact.run.stage_by_key((artefact.step.get("inputs") or {}).get("validation"))
    try:
        reference = artefact.run.array(artefact.run.stage("float"), "logits.npy")[: len(logits)]
        labelled = bool((validation or {}).get("metrics", {}).get("labelled"))
        labels = artefact.run.array(validation, "labels.npy")[: len(logits)] if labelled else None
    except LookupError:
        return None
    return compare(logits, np.asarray(reference), None if labels is None else np.asarray(labels)).to_json()


def same_as_local(artefact: Artefact, logits: Floats) -> dict[str, Any] | None:
    """Against what the run's own evaluation of this artefact (simulator, host) said for the same images."""
    assert artefact.run is not None
    try:
        local = artefact.run.array(artefact.step, "logits.npy")[: len(logits)]
    except LookupError:
        return None
    return {
        "n": len(logits),
        "agree": int((local.argmax(1) == logits.argmax(1)).sum()),
        "max_logit_difference": float(np.abs(local - logits).max()),
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


def by_benchmark_model(
    artefact: Artefact,
    place: Place,
    transport: Transport,
    binary: Path,
    settings: Settings,
    progress: Progress,
) -> dict[str, Any]:
    """Latency of a .tflite by TensorFlow Lite's own tool; saved like `measure`'s. Raises InputError."""
    if artefact.path.suffix != ".tflite":
        raise InputError(
            f"{WHAT} {artefact.path.name} with benchmark_model", "it runs .tflite only", "Say --target tflite"
        )
    if not binary.is_file():
        raise InputError(f"cannot use {binary}", "no such file", "Give the benchmark_model binary")
    if settings.pin_clocks:
        raise InputError("cannot pin clocks", "benchmark_model can't", "Leave --pin-clocks out")
    result = artefact.result or {}
    record = benchmark_model.measured(
        transport,
        binary,
        artefact.path,
        settings.threads,
        target=result.get("target"),
        precision=result.get("precision"),
        runs=settings.runs,
        seconds=settings.seconds,
        progress=progress,
    )
    record = {"tensors": None, **record}
    if artefact.run is not None and artefact.result is not None:
        save(artefact.run.folder, record, artefact.run.folder)
    return record
