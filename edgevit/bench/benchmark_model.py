"""TensorFlow Lite's own `benchmark_model`, for devices without Python: a phone over adb, a small Linux board.

The binary is the user's: LiteRT publishes builds, the source is tflite/tools/benchmark.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgevit.bench.benchmark_output import Timing, fix_for, parse, reason
from edgevit.bench.probe import probe
from edgevit.bench.record import FLOATING
from edgevit.bench.remote_folder import expect, remote_folder
from edgevit.bench.transport import Completed, Transport, TransportError
from edgevit.files import sha256_file
from edgevit.progress import QUIET, Progress
from edgevit.run.measurement import FORMAT


def run_benchmark_model(
    transport: Transport,
    binary: Path,
    artefact: Path,
    threads: Sequence[int],
    *,
    folder: str | None = None,
    runs: int = 50,
    seconds: float = 10.0,
    use_gpu: bool = False,
    progress: Progress = QUIET,
) -> dict[str, Any]:
    """Time `artefact` (.tflite) with each number of `threads` on a device; clean up whatever happens.

    Returns the keys of a measurement that benchmark_model knows: latency (ms by number of threads, best),
    first_ms, load_ms, peak_rss_mb, warnings, delegate. Raises TransportError with the tool's own last words.
    """
    with remote_folder(transport, folder) as work:
        progress.stage(f"copy {binary.name} and {artefact.name} to {transport.name}")
        tool, graph = f"{work}/benchmark_model", f"{work}/model.tflite"
        transport.push(binary, tool)
        transport.push(artefact, graph)
        expect(transport, ["chmod", "755", tool])
        timings: dict[int, Timing] = {}
        progress.stage(f"run {binary.name} on {transport.name}")
        for done, count in enumerate(threads):
            progress.advance(done, len(threads), f"{count} threads")
            command = [tool, *flags(graph, count, runs, seconds, use_gpu)]
            timings[count] = time_once(transport, command, seconds)
    return measurement(timings)


def measured(
    transport: Transport,
    binary: Path,
    artefact: Path,
    threads: Sequence[int] | None = None,
    *,
    folder: str | None = None,
    target: str | None = None,
    precision: str | None = None,
    runs: int = 50,
    seconds: float = 10.0,
    use_gpu: bool = False,
    progress: Progress = QUIET,
) -> dict[str, Any]:
    """A whole measurement as saved in a run directory: what `run_benchmark_model` gives, and of what.

    Without `threads`: 1, 2, 4 and so on up to the device's cores.
    """
    facts = probe(transport)
    counts = threads or thread_counts(facts.cores or 1)
    found = run_benchmark_model(
        transport,
        binary,
        artefact,
        counts,
        folder=folder,
        runs=runs,
        seconds=seconds,
        use_gpu=use_gpu,
        progress=progress,
    )
    return {
        "format": FORMAT,
        "where": transport.name,
        "artefact": artefact.name,
        "target": target,
        "precision": precision,
        "how": f"measured on {facts.model}",
        "machine": facts.machine_json(),
        "versions": {"system": facts.os, "benchmark_model": f"sha256 {sha256_file(binary)[:12]}"},
        **found,
        "core_masks": None,
        "clocks": dict(FLOATING),
        "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def thread_counts(cores: int) -> list[int]:
    """Powers of two up to the number of cores, and that number."""
    return sorted({1 << power for power in range(cores.bit_length()) if 1 << power <= cores} | {cores})


def flags(graph: str, threads: int, runs: int, seconds: float, use_gpu: bool) -> list[str]:
    """Arguments every version since 2019 knows: at least `runs` runs and at least `seconds` seconds."""
    return [
        f"--graph={graph}",
        f"--num_threads={threads}",
        f"--num_runs={runs}",
        f"--min_secs={seconds:g}",
        "--warmup_runs=5",
        "--report_peak_memory_footprint=true",
        *(["--use_gpu=true"] if use_gpu else []),
    ]


def time_once(transport: Transport, command: list[str], seconds: float) -> Timing:
    """One call. Flags that a version doesn't know it warns of and ignores."""
    done = transport.run(command, timeout_s=180 + 10 * seconds)
    text = done.out + "\n" + done.err
    if done.code != 0:
        raise TransportError(f"benchmark_model failed on {transport.name}", ending(done), fix_for(text))
    return parse(text)


def ending(done: Completed) -> str:
    """Why a call failed, in its own words."""
    signal = f"killed by signal {done.code - 128}" if done.code > 128 else f"exit code {done.code}"
    words = reason(done.out + "\n" + done.err)
    return f"{signal}: {words}"


def measurement(timings: dict[int, Timing]) -> dict[str, Any]:
    """The keys of a measurement that these timings fill; the best number of threads has the lowest mean."""
    best = min(timings, key=lambda count: timings[count].mean)
    chosen = timings[best]
    warnings = ["benchmark_model prints p5, the median and p95 at most: other percentiles are not known"]
    if chosen.p50 is None:
        warnings = ["this benchmark_model prints no percentiles, only mean, min and max"]
    if chosen.partitions is not None and chosen.partitions > 1:
        warnings.append(
            f"{chosen.delegate} runs {chosen.delegated_ops} of {chosen.ops} ops in {chosen.partitions} pieces: "
            "data is copied at each seam"
        )
    return {
        "latency": {
            "threads": {str(count): timing.latency() for count, timing in timings.items()},
            "best": str(best),
        },
        "first_ms": chosen.first_ms,
        "load_ms": chosen.load_ms,
        "peak_rss_mb": chosen.peak_mb,
        "delegate": chosen.delegate,
        "accuracy": None,
        "same_as_local": None,
        "warnings": warnings,
    }
