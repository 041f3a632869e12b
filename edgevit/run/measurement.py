"""One measurement on a machine, as `edgevit bench` saves it in a run's `bench` folder."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import Field, ValidationError

from edgevit.errors import InputError
from edgevit.files import read_input
from edgevit.run.fields import Count, Measured, Real, Record, first_problem

FORMAT = 2


class Timing(Record):
    """Latencies of one setting in milliseconds, from `n` runs; a tool may not tell them all."""

    n: Count = 0
    p50: Real | None = None
    p90: Real | None = None
    p99: Real | None = None
    mean: Real | None = None
    throughput: Real | None = None
    samples_ms: tuple[Real, ...] = ()


class Latency(Record):
    """Timings by number of threads, and which number was the fastest."""

    threads: dict[str, Timing] = Field(default_factory=dict)
    best: str | None = None


class Machine(Record):
    """What was measured on."""

    model: str | None = None
    cpu: str | None = None
    cores: Count | None = None
    memory_mb: Real | None = None


class Clocks(Record):
    """Whether the clocks were fixed, and whether the machine slowed down."""

    pinned: bool = False
    throttled: bool | None = None


class SameAsLocal(Record):
    """Answers on the board against the local evaluation's."""

    n: Count
    agree: Count
    max_output_difference: float | None = None


class LayerTime(Record):
    """One layer's time as the runtime measured it, and the compiler's cycles for it."""

    index: Count
    op: str
    target: str
    us: Count
    cycles: Count
    name: str = ""


class Measurement(Record):
    """One artefact on one machine; `how` labels where the numbers come from, `file` is the JSON file's name."""

    format: int = FORMAT
    where: str
    artefact: str
    how: str
    target: str | None = None
    precision: str | None = None
    machine: Machine | None = None
    versions: dict[str, str | None] = Field(default_factory=dict)
    latency: Latency = Latency()
    core_masks: dict[str, Timing] | None = None
    first_ms: Real | None = None
    load_ms: Real | None = None
    peak_rss_mb: Real | None = None
    clocks: Clocks | None = None
    accuracy: Measured | None = None
    same_as_local: SameAsLocal | None = None
    layers: tuple[LayerTime, ...] = ()
    warnings: tuple[str, ...] = ()
    written: str = ""
    file: str = ""


def read_measurements(folder: Path) -> tuple[tuple[Measurement, ...], tuple[str, ...]]:
    """Measurements on boards, by file name, and a line for each file that can't be read."""
    found, unreadable = [], []
    for path in sorted(folder.glob("*.json")):
        try:
            content = read_input(path, f"bench/{path.name}")
            json.loads(content)
            found.append(Measurement.model_validate_json(content).model_copy(update={"file": path.name}))
        except ValidationError as error:
            unreadable.append(f"bench/{path.name} is not a measurement: {first_problem(error)}")
        except (InputError, ValueError, RecursionError):
            unreadable.append(f"bench/{path.name} is not JSON")
    return tuple(found), tuple(unreadable)
