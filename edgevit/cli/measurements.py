"""Measurements of boards as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import click

from edgevit.metrics.classification import Accuracy
from edgevit.outputs.kinds import KINDS, unit_of

COLUMNS = ("setting", "runs", "min", "p50", "p90", "p99", "mean ms", "per s")


def print_measurements(records: Sequence[dict[str, Any]]) -> None:
    """A table of latencies for each artefact, then what else was found."""
    from edgevit.cli.console import print_table

    for record in records:
        title = f"{record['artefact']}: {record['how']} ({record['where']})"
        print_table(title, COLUMNS, list(rows(record)), list(notes(record)))
    click.echo("", nl=False)


def rows(record: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """One row a setting; the best is named."""
    best = record["latency"]["best"]
    if record["core_masks"]:
        fastest = max(record["core_masks"], key=lambda name: record["core_masks"][name]["throughput"])
        for name, timing in record["core_masks"].items():
            label = f"NPU cores {name}" if name[0].isdigit() else name
            yield row(f"{label} (most per s)" if name == fastest else label, timing)
        return
    for name, timing in record["latency"]["threads"].items():
        label = f"{name} thread{'' if name == '1' else 's'}"
        many = len(record["latency"]["threads"]) > 1
        yield row(f"{label} (best)" if name == best and many else label, timing)


def row(label: str, timing: dict[str, Any]) -> tuple[str, ...]:
    """One setting's figures; an unknown one stays empty."""
    times = (timing.get(key) for key in ("min", "p50", "p90", "p99", "mean"))
    shown = ("" if value is None else f"{value:.2f}" for value in times)
    throughput = timing.get("throughput")
    return (label, str(timing.get("n", "")), *shown, "" if throughput is None else f"{throughput:.1f}")


def notes(record: dict[str, Any]) -> Iterator[str]:
    """What the table doesn't show, one line each."""
    once = {"load": record.get("load_ms"), "first inference": record.get("first_ms")}
    parts = [f"{name} {value:.1f} ms" for name, value in once.items() if value is not None]
    if record.get("peak_rss_mb"):
        parts.append(f"peak memory {record['peak_rss_mb']:.0f} MB")
    if parts:
        yield ", ".join(parts)
    yield clocks(record["clocks"])
    if record["accuracy"]:
        yield accuracy(record["accuracy"])
    same = record["same_as_local"]
    if same:
        yield (
            f"same answers as the local evaluation on {same['agree']} of {same['n']} images, largest output "
            f"difference {same['max_output_difference']:.2g}"
        )
    if record.get("tensors"):
        yield f"tensors of the first image: bench/{record['tensors']}"
    yield "versions: " + ", ".join(f"{name} {version}" for name, version in record["versions"].items())


def clocks(values: dict[str, Any]) -> str:
    """Whether clocks were fixed while it was timed."""
    text = "clocks pinned" if values["pinned"] else "clocks were not pinned: they floated with load and heat"
    throttled = {True: "; throttled", False: "; no throttling seen", None: ""}[values["throttled"]]
    heat = values["after"].get("temperature") or {}
    hottest = f"; {max(heat.values()):.0f} degrees C at the end" if heat else ""
    return text + throttled + hottest


def accuracy(values: dict[str, Any]) -> str:
    """Against the float model."""
    found = Accuracy(**values)
    text = (
        f"{KINDS[found.kind].same} as the float model on {100 * found.agreement:.1f} % of {found.n} images "
        f"(95 %: {100 * found.agreement_low:.1f} to {100 * found.agreement_high:.1f})"
    )
    if found.drop_points is None or found.drop_low is None or found.drop_high is None:
        return text
    right = "" if found.top1 is None else f"right on {100 * found.top1:.2f} %, "
    return (
        f"{right}lost {found.drop_points:.2f} {unit_of(found)} "
        f"(95 %: {found.drop_low:.2f} to {found.drop_high:.2f}); {text}"
    )
