"""One measurement from beginning to end: prepare, run on the board, record."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from edgevit.backends.registry import backends
from edgevit.bench import benchmark_model, native_runner, session
from edgevit.bench.choose import WHAT, Artefact
from edgevit.bench.connect import Place
from edgevit.bench.prepare import Settings, prepare
from edgevit.bench.record import record_of, save
from edgevit.bench.transport import Transport
from edgevit.errors import InputError
from edgevit.progress import Progress
from edgevit.targets.profiles import Board, load_board


def measure(
    artefact: Artefact,
    place: Place,
    transport: Transport,
    settings: Settings,
    progress: Progress,
    runner: Path | None = None,
) -> dict[str, Any]:
    """Measure one artefact; returns the record and, where a run made the artefact, saves it in RUN/bench.

    `runner` is a native runner, for a board without Python.
    Raises InputError before anything is sent, TransportError for what is wrong on the board.
    """
    board = profile(artefact, place)
    if settings.pin_clocks:
        refuse_no_clocks(board)
    if runner is not None:
        refuse_native(artefact, runner, settings)
    with tempfile.TemporaryDirectory(prefix="edgevit-bench-") as name:
        folder = Path(name)
        files, request = prepare(artefact, board, settings, folder, place.npu_library)
        limit_s, work_folder = time_limit_s(settings, request), place.work_folder
        if runner is not None:
            found = native_runner.measure(
                *(transport, runner, files, request, folder, progress),
                work_folder=work_folder,
                limit_s=limit_s,
            )
        else:
            found = session.measure(
                *(transport, files, request, folder, progress),
                install=artefact.backend.on_board.install,
                python=python_for(artefact, place),
                work_folder=work_folder,
                limit_s=limit_s,
            )
        if settings.images is not None and 0 < request["images"] < settings.images:
            progress.warn(
                f"{settings.images} images are asked for and the run has {request['images']}: all of them"
            )
        record = record_of(artefact, transport, found, folder, request)
        if artefact.run is not None and artefact.result is not None:
            save(artefact.run.folder, record, folder)
    return record


def refuse_native(artefact: Artefact, runner: Path, settings: Settings) -> None:
    """Raises InputError for what a native runner can't do."""
    if not artefact.backend.on_board.native_runner:
        suffixes = ", ".join(each.suffix for each in backends() if each.on_board.native_runner)
        what = f"{WHAT} {artefact.path.name} with --runner"
        raise InputError(what, f"it runs {suffixes} only", "Choose such an artefact with --target")
    if not runner.is_file():
        raise InputError(f"cannot use {runner}", "no such file", "Build it: edgevit boards runner --out DIR")
    if settings.pin_clocks:
        raise InputError("cannot pin clocks", "the native runner can't", "Leave --pin-clocks out")


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
    return artefact.run.manifest.boards.get(artefact.result.target)


def python_for(artefact: Artefact, place: Place) -> str:
    """The Python to run with: on this machine the one that has the runtime."""
    if place.python:
        return place.python
    if place.address != "host":
        return "python3"
    here = artefact.backend.on_board.python_here
    assert here is not None  # what can't run here was refused
    return here()


def time_limit_s(settings: Settings, request: dict[str, Any]) -> float:
    """Generous: ten settings, slow inferences, slow copies."""
    return 1800 + 10 * settings.seconds + 20.0 * (int(request["images"]) + 10 * settings.runs)


def by_benchmark_model(
    artefact: Artefact,
    place: Place,
    transport: Transport,
    binary: Path,
    settings: Settings,
    progress: Progress,
) -> dict[str, Any]:
    """Latency of a .tflite by TensorFlow Lite's own tool; saved like `measure`'s. Raises InputError."""
    if not artefact.backend.on_board.benchmark_model:
        suffixes = ", ".join(each.suffix for each in backends() if each.on_board.benchmark_model)
        raise InputError(
            f"{WHAT} {artefact.path.name} with benchmark_model",
            f"it runs {suffixes} only",
            "Choose such an artefact with --target",
        )
    if not binary.is_file():
        raise InputError(f"cannot use {binary}", "no such file", "Give the benchmark_model binary")
    if settings.pin_clocks:
        raise InputError("cannot pin clocks", "benchmark_model can't", "Leave --pin-clocks out")
    result = artefact.result
    record = benchmark_model.measured(
        transport,
        binary,
        artefact.path,
        settings.threads,
        folder=place.work_folder,
        target=result.target if result else None,
        precision=result.precision if result else None,
        runs=settings.runs,
        seconds=settings.seconds,
        progress=progress,
    )
    record = {"tensors": None, **record}
    if artefact.run is not None and artefact.result is not None:
        save(artefact.run.folder, record, artefact.run.folder)
    return record
