"""How `edgevit inspect` shows a compiled model."""

from __future__ import annotations

from typing import Any

from edgevit.cli.console import print_table
from edgevit.placement.estimate import Estimate

LAYER_COLUMNS = ("layer", "op", "type", "on", "output", "cycles", "share", "DDR/NPU cycles", "KB moved")


def print_record(record: dict[str, Any], top: int) -> None:
    """Print one artefact's placement: the costliest layers, totals, what left the accelerator and why."""
    title = f"{record['target']} {record['precision']}, {record['variant']}"
    if "layers" in record:
        print_npu(title, record, top)
    else:
        print_delegate(title, record)


def print_npu(title: str, record: dict[str, Any], top: int) -> None:
    """The NPU compiler's table."""
    layers = sorted(record["layers"], key=lambda row: (-row["cycles_total"], -row["traffic_kb"]))
    total = max(1, record["cycles"])
    rows = [
        (
            str(row["index"]),
            row["op"],
            row["dtype"],
            row["target"],
            "x".join(map(str, row["outputs"][0])) if row["outputs"] else "",
            f"{row['cycles_total']:,}",
            f"{100 * row['cycles_total'] / total:.0f} %",
            f"{row['cycles_ddr']:,}/{row['cycles_npu']:,}",
            f"{row['traffic_kb']:,}",
        )
        for row in layers[:top]
    ]
    notes = [
        f"{record['cycles']:,} cycles an image ({record['how']}), {record['traffic_kb'] / 1024:.1f} MB moved; "
        f"memory: weights {megabytes(record['weight_bytes'])}, internal {megabytes(record['internal_bytes'])}",
        *latency_lines(Estimate(**record["latency"]) if record["latency"] else None),
        *cpu_lines(record["cpu_ops"]),
        *rewrite_lines(record),
    ]
    if record["disabled_rules"]:
        notes.append(
            f"built without the compiler's rules {', '.join(record['disabled_rules'])}, which fail here"
        )
    print_table(title, LAYER_COLUMNS, rows, notes)


def megabytes(size: int) -> str:
    """A size in MB with one decimal."""
    return f"{size / 2**20:.1f} MB"


def latency_lines(latency: Estimate | None) -> list[str]:
    """The estimated latency with its interval, and what it is made of."""
    if latency is None:
        return []
    parts = ", ".join(f"{name} {ms:.1f}" for name, ms in latency.parts.items() if ms >= 0.05)
    interval = f"{latency.low_ms:.1f} to {latency.high_ms:.1f} ms"
    told = f"; parts in ms: {parts}" if len(latency.parts) > 1 else ""
    return [f"{interval} an image on {latency.where} ({latency.label}{told})"]


def cpu_lines(cpu_ops: list[dict[str, Any]]) -> list[str]:
    """What left the NPU, and why."""
    if not cpu_ops:
        return ["every op runs on the NPU"]
    return [f"on the CPU: {op['count']} {op['op']}, {op['traffic_kb']} KB: {op['reason']}" for op in cpu_ops]


def rewrite_lines(record: dict[str, Any]) -> list[str]:
    """What was taken away and what was rewritten."""
    lossy = [
        f"{each['stage']}: {sentence}"
        for each in record["reductions"]
        for sentence in dict.fromkeys([each["what"], *each["notes"]])
    ]
    return lossy + [f"{each['name']}: {each['what']}" for each in record["rewrites"] if each["changed"]]


def print_delegate(title: str, record: dict[str, Any]) -> None:
    """Partitions of a LiteRT delegate, or the bare size where a backend has no placement."""
    operations, outside = record.get("operations", {}), record.get("outside", {})
    rows = [(name, str(count), str(outside.get(name, 0))) for name, count in operations.items()]
    estimated = Estimate(**record["latency"]) if record.get("latency") else None
    notes = [f"{record['bytes'] / 1e6:.1f} MB", *latency_lines(estimated), *rewrite_lines(record)]
    if "partitions" in record:
        splitting = ", ".join(f"{count} {name}" for name, count in outside.items()) or "none"
        notes.insert(0, f"{record['partitions']} XNNPACK partitions; ops outside them: {splitting}")
    print_table(title, ("op", "count", "outside the delegate"), rows, notes)
