"""TensorFlow Lite's own `benchmark_model`, for devices without Python: a phone over adb, a small Linux board.

The binary is the user's (LiteRT publishes builds; the source is tflite/tools/benchmark). Its words changed over
the years: a prefix such as "INFO: " or logcat's, percentiles since 2024, a table of its own in LiteRT 2.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgevit.bench.transport import Completed, Transport, TransportError
from edgevit.progress import QUIET, Progress

NUMBER = r"([-+.\deE]*\d)"
COUNTS = re.compile(r"\bcount=\d+(?: \w+=[-+.\deE]+)+")
FIELD = re.compile(rf"(\w+)={NUMBER}")
SUMMARY = re.compile(
    rf"Inference timings in us: Init: {NUMBER}, First inference: {NUMBER}, "
    rf"Warmup \(avg\): {NUMBER}, Inference \(avg\): {NUMBER}"
)
OLD_SUMMARY = re.compile(
    rf"Average inference timings in us: Warmup: {NUMBER}, Init: {NUMBER}, (?:no stats|Inference): {NUMBER}"
)
LITERT = re.compile(
    rf"(Model initialization|(?:Warmup|Inference) \(\w+\)):\s+{NUMBER}(?: ms)?(?: \((\d+) runs\))?"
)
PEAK = re.compile(
    rf"(?:Overall peak memory footprint \(MB\) via periodic monitoring|Peak memory):\s+{NUMBER}"
)
DELTA = re.compile(rf"(?:\(MB\): init={NUMBER} overall=|Overall footprint:\s+){NUMBER}")
PARTITIONS = re.compile(
    r"Replacing (\d+) out of (\d+) node\(s\) with delegate \((\w+)\) node, yielding (\d+) partitions"
)
WORDS_OF_FAILURE = ("ERROR", "rror:", "ailed", "annot", "not found", "No such", "Unable", "denied")


OPTIONAL = ("min", "max", "std", "p5", "p50", "p95", "load_ms", "first_ms", "warmup_ms")


@dataclass(frozen=True)
class Timing:
    """What one call of benchmark_model said; times in ms, memory in MB, None where that version says nothing."""

    n: int
    mean: float
    min: float | None
    max: float | None
    std: float | None
    p5: float | None
    p50: float | None
    p95: float | None
    load_ms: float | None
    first_ms: float | None
    warmup_ms: float | None
    peak_mb: float | None
    memory_delta_mb: float | None
    delegate: str | None
    partitions: int | None
    delegated_ops: int | None
    ops: int | None

    def latency(self) -> dict[str, Any]:
        """The part of a measurement that holds latencies: percentiles it doesn't print stay null."""
        return {
            "n": self.n,
            "min": self.min,
            "p50": self.p50,
            "p90": None,
            "p95": self.p95,
            "p99": None,
            "max": self.max,
            "mean": self.mean,
            "std": self.std,
            "throughput": 1000.0 / self.mean if self.mean else None,
            "samples_ms": [],
        }


def parse(text: str) -> Timing:
    """Read the output of benchmark_model, any version. Raises TransportError if there is no result in it."""
    times = litert_times(text) or tflite_times(text)
    if times is None:
        raise TransportError("benchmark_model gave no result", reason(text), fix_for(text))
    peak, delta, parts = PEAK.search(text), DELTA.search(text), PARTITIONS.findall(text)
    return Timing(
        n=int(times["n"]),
        mean=times["mean"],
        **{name: times.get(name) for name in OPTIONAL},
        peak_mb=float(peak[1]) if peak else None,
        memory_delta_mb=float(delta[2]) if delta else None,
        delegate=parts[-1][2] if parts else None,
        partitions=int(parts[-1][3]) if parts else None,
        delegated_ops=int(parts[-1][0]) if parts else None,
        ops=int(parts[-1][1]) if parts else None,
    )


def tflite_times(text: str) -> dict[str, float] | None:
    """Times in ms as TensorFlow Lite prints them, in microseconds, since 2018; None if they aren't there."""
    runs = [dict(FIELD.findall(match[0])) for match in COUNTS.finditer(text)]
    summary, old = SUMMARY.search(text), OLD_SUMMARY.search(text)
    if not runs or not (summary or old):
        return None
    last = runs[-1]
    if last["count"] == "1" and "curr" in last:  # of a single run only its own time is printed
        last = {"min": last["curr"], "max": last["curr"], **last}
    names = {"min": "min", "max": "max", "std": "std", "p5": "p5", "median": "p50", "p95": "p95"}
    times = {name: float(last[key]) / 1000 for key, name in names.items() if key in last}
    if summary:
        values = dict(zip(("load_ms", "first_ms", "warmup_ms", "mean"), summary.groups(), strict=True))
    else:
        assert old is not None
        values = dict(zip(("warmup_ms", "load_ms", "mean"), old.groups(), strict=True))
        values["first_ms"] = runs[0].get("first", runs[0].get("curr", "nan"))
    times |= {name: float(value) / 1000 for name, value in values.items()}
    return {**times, "n": float(last["count"])}


def litert_times(text: str) -> dict[str, float] | None:
    """Times as the tool of LiteRT 2 prints them, in ms; None if they aren't there."""
    found = {name: (float(value), count) for name, value, count in LITERT.findall(text)}
    if "Model initialization" not in found or "Inference (avg)" not in found:
        return None
    names = {
        "Model initialization": "load_ms",
        "Warmup (first)": "first_ms",
        "Warmup (avg)": "warmup_ms",
        "Inference (avg)": "mean",
        "Inference (min)": "min",
        "Inference (max)": "max",
        "Inference (std)": "std",
    }
    times = {name: found[key][0] for key, name in names.items() if key in found}
    return {**times, "n": float(found["Inference (avg)"][1] or 1)}


def reason(text: str) -> str:
    """The line of the output that says why there is no result."""
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    wrong = [line for line in lines if any(word in line for word in WORDS_OF_FAILURE)]
    return (wrong or lines or ["it printed nothing"])[-1].rstrip(".")[:300]


def fix_for(text: str) -> str:
    """What to do about a run without a result."""
    if re.search(r"not executable|Exec format error|cannot execute|syntax error|unexpected", text):
        return "Take the build for this device's processor (android_arm64 or linux_arm64)"
    if re.search(r"CANNOT LINK|GLIBC|error while loading shared libraries|No such file or directory", text):
        return "Take the build for this device's system: android_arm64 for Android, linux_arm64 for Linux"
    if re.search(r"Didn't find op|builtin opcode|op version|Op type not registered", text):
        return "Take a newer benchmark_model: this one does not know an op of the model"
    return "Run it by hand on the device with --graph=FILE to see all of its output"


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
    work = folder or f"/data/local/tmp/edgevit-{secrets.token_hex(6)}"
    expect(transport, ["mkdir", "-p", work])
    try:
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
    finally:
        remove(transport, work)
    return measurement(timings)


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


def expect(transport: Transport, argv: Sequence[str]) -> None:
    """Run a command that must work. Raises TransportError with its own words."""
    done = transport.run(argv, timeout_s=30)
    if done.code != 0:
        raise TransportError(
            f"cannot prepare {transport.name}",
            f"{' '.join(argv[:2])}: {reason(done.err or done.out)}",
            "Choose a work folder that the shell user may write",
        )


def remove(transport: Transport, work: str) -> None:
    """Delete the work folder; a lost device can't be cleaned, and the reason it was lost matters more."""
    try:
        transport.run(["rm", "-rf", work], timeout_s=30)
    except TransportError:
        return
