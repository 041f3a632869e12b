"""What spreading work over Dask workers costs and gains: time, overhead, memory, by workers, points and images.

    python benchmarks/scale/run.py
    python benchmarks/scale/run.py --only overhead

Needs dask.distributed, and the RKNN toolchain for `images`. Workers are processes of this machine. `points` are
the bundled model in float and int8 for ONNX Runtime, made smaller in so many ways; `images` are the bundled
model's validation images, repeated, on RK3588's simulator. Every measurement has a store of its own, so that
nothing is reused. Rows are added to results.json; the tables in README.md are written from it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from edgevit.cluster.tasks import Task, run_all
from edgevit.conversion.sources import demo_images
from edgevit.files import write_atomically
from edgevit.progress import QUIET

HERE = Path(__file__).parent
RESULTS, README = HERE / "results.json", HERE / "README.md"
WORKERS = (1, 2, 4)
START, END = "<!-- table: written by run.py -->\n", "<!-- end of table -->\n"
TASKS = 500
POINTS = (1, 4, 16, 64)
IMAGES = (100, 1000, 10_000)
OWN = 'mean = [0.5, 0.5, 0.5]\nstd = [0.5, 0.5, 0.5]\ncrop = "squash"\ninterpolation = "bilinear"\n'
AS_TRAINED = ("--preprocessing", "digits.toml")
MODEL = """
from edgevit.demo import load_demo

def model():
    return load_demo().module
"""


def nothing(number: int, progress: Any) -> int:
    """A task that does no work."""
    return number


def main() -> None:
    parts: dict[str, Callable[[], Iterator[tuple[str, Callable[[], dict[str, Any]]]]]] = {
        "overhead": overheads,
        "points": by_points,
        "images": by_images,
    }
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=list(parts))
    parser.add_argument("--again", action="store_true", help="measure rows again that are there")
    arguments = parser.parse_args()
    rows = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    for part, of in parts.items():
        if arguments.only not in (None, part):
            continue
        for key, measure in of():
            if key not in rows or arguments.again:
                rows[key] = measure()
                print(key, rows[key], flush=True)
                write_atomically(RESULTS, json.dumps(rows, indent=1, sort_keys=True) + "\n")
                write_tables(rows)


def write_tables(rows: dict[str, dict[str, Any]]) -> None:
    """The rows as tables in README.md: of tasks without work, then of real ones."""

    def order(key: str) -> tuple[str, ...]:
        return tuple(word.zfill(6) if word.isdigit() else word for word in reversed(key.split()))

    empty = sorted((key for key in rows if key.startswith("overhead")), key=order)
    real = sorted(
        (key for key in rows if key not in empty), key=lambda key: (key.split()[1], order(key)[::-1])
    )
    lines = [
        "| a task without work | ms a task | begin, s | scheduler, MB | a worker, MB |",
        "|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {one(key)} | "
        + " | ".join(
            f"{rows[key][each]}" for each in ("ms_a_task", "start_s", "client_and_scheduler_mb", "worker_mb")
        )
        + " |"
        for key in empty
    ]
    lines += ["", "| what | seconds | MB |", "|---|---:|---:|"]
    lines += [f"| {one(key)} | {rows[key]['seconds']} | {rows[key]['peak_mb']} |" for key in real]
    text = README.read_text(encoding="utf-8")
    before, after = text.split(START)[0], text.split(END)[1]
    write_atomically(README, before + START + "\n".join(lines) + "\n" + END + after)


def one(key: str) -> str:
    """A row's name in grammar."""
    return re.sub(r"\b1 (worker|point)s", r"1 \1", key)


def overheads() -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """What a task costs that does nothing, and what scheduler and workers take before any work."""
    for workers in WORKERS:
        yield f"overhead, {workers} workers", lambda workers=workers: overhead(workers)  # type: ignore[misc]


def overhead(workers: int) -> dict[str, Any]:
    """Milliseconds a task, one after the other is given; megabytes of this process and of a worker."""
    from edgevit.cluster.fitness import needs_of
    from edgevit.cluster.machines import machines

    begun = time.monotonic()
    with (
        tempfile.TemporaryDirectory() as folder,
        needs_of((), (), Path(folder)) as needs,
        machines(None, workers, needs, QUIET) as cluster,
    ):
        started = time.monotonic() - begun
        tasks = [Task(f"{number}", nothing, (number,)) for number in range(TASKS)]
        begun = time.monotonic()
        ended = run_all(cluster, tasks)
        seconds = time.monotonic() - begun
        memory = cluster.client.run(own_megabytes)
    assert len(ended) == TASKS and not any(each.error for each in ended)
    return {
        "ms_a_task": round(1000 * seconds / TASKS, 2),
        "start_s": round(started, 1),
        "client_and_scheduler_mb": round(own_megabytes()),
        "worker_mb": round(float(np.median(list(memory.values())))),
    }


def own_megabytes() -> float:
    """Memory of this process."""
    return psutil.Process().memory_info().rss / 1e6


def by_points() -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Sweeps of so many points."""
    for points in POINTS:
        for workers in WORKERS if points in (16,) else (2,):
            yield (
                f"{points} points, {workers} workers",
                lambda points=points, workers=workers: timed(sweep_of(points), workers),  # type: ignore[misc]
            )
    yield "16 points, no cluster", lambda: timed(sweep_of(16), None)


def by_images() -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Conversions measured on so many images."""
    for images in IMAGES:
        for workers in WORKERS if images == 1000 else (2,):
            yield (
                f"{images} images, {workers} workers",
                lambda images=images, workers=workers: timed(conversion_of(images), workers),  # type: ignore[misc]
            )
    yield "1000 images, no cluster", lambda: timed(conversion_of(1000), None)


def sweep_of(points: int) -> Callable[[Path], list[str]]:
    """The command of a sweep of so many points."""

    def command(folder: Path) -> list[str]:
        few, many = digits(folder, 64, "calibration"), digits(folder, 100, "validation")
        ways = max(1, points // 2)
        neurons = ",".join(["0", *(f"{0.01 * (way + 1):.2f}" for way in range(ways - 1))])
        precisions = "int8,float" if points > 1 else "int8"
        model = [
            "digits.py:model",
            "--target",
            "onnx",
            "--precision",
            precisions,
            "--prune-mlp",
            neurons,
            *AS_TRAINED,
        ]
        return ["sweep", *model, "--every", "--calibration", few, "--validation", many]

    return command


def conversion_of(images: int) -> Callable[[Path], list[str]]:
    """The command of a conversion measured on so many images."""

    def command(folder: Path) -> list[str]:
        model = ["digits.py:model", "--target", "rk3588", "--search-minutes", "0"]
        few, many = digits(folder, 64, "calibration"), digits(folder, images, "validation")
        return ["convert", *model, *AS_TRAINED, "--calibration", few, "--validation", many]

    return command


def digits(folder: Path, count: int, role: str) -> str:
    """A CSV of `count` of the bundled pictures, repeated, with the bundled model as a user's file; its name."""
    files = sorted((demo_images() / role).rglob("*.png"))
    repeated = (files * (count // len(files) + 1))[:count]
    lines = [f"{path},{path.parent.name}" for path in repeated]
    (folder / f"{role}.csv").write_text("path,label\n" + "\n".join(lines) + "\n", encoding="utf-8")
    (folder / "digits.py").write_text(MODEL, encoding="utf-8")
    (folder / "digits.toml").write_text(OWN, encoding="utf-8")
    return f"{role}.csv"


def timed(command: Callable[[Path], list[str]], workers: int | None) -> dict[str, Any]:
    """Run edgevit in a folder and a store of its own; seconds, and the most memory of all its processes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spreading = [] if workers is None else ["--local", str(workers)]
        line = [sys.executable, "-m", "edgevit", *command(folder), *spreading, "--out", "run", "--json"]
        environment = {**os.environ, "EDGEVIT_CACHE": str(folder / "store")}
        begun = time.monotonic()
        process = subprocess.Popen(
            line, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        peak = 0.0
        with readable(process):
            while process.poll() is None:
                peak = max(peak, megabytes_of(process.pid))
                time.sleep(0.5)
        return {"seconds": round(time.monotonic() - begun, 1), "peak_mb": round(peak)}


@contextmanager
def readable(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """What a process says on standard error where it fails."""
    yield
    said = process.stderr.read().decode(errors="replace") if process.stderr else ""
    if process.returncode:
        raise SystemExit(said[-2000:])


def megabytes_of(process: int) -> float:
    """Memory of a process and of all it started, pages that they share counted once."""
    total = 0.0
    try:
        parent = psutil.Process(process)
        for each in (parent, *parent.children(recursive=True)):
            total += each.memory_full_info().pss / 1e6
    except psutil.Error:
        pass
    return total


if __name__ == "__main__":
    main()
