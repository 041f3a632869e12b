"""What TensorFlow Lite's and LiteRT's `benchmark_model` prints, in each of its generations.

Its words changed over the years: a prefix such as "INFO: " or logcat's, percentiles since 2024, a table of its own
in LiteRT 2. tests/bench/recorded_outputs.py holds real ones.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from edgevit.bench.transport import TransportError

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
