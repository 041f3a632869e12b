"""What is known of an artefact's tensors and layers: error by tensor, precision plan, placement, latency."""

from __future__ import annotations

import re
from typing import Any

from edgevit.boards.profiles import Board
from edgevit.errors import InputError
from edgevit.placement import estimate as estimates
from edgevit.placement.layers import BORDER_OPS
from edgevit.placement.layers import Placement as Compiled
from edgevit.report.sections import Delegate, Heat, Latency, LayerBar, Placement, Precision, Trial
from edgevit.report.text import clean, count, lines, milliseconds, number, required, whole
from edgevit.run.reading import as_dict

BLOCK = re.compile(r"blocks\.(\d+)\.([\w.]+)")
MAX_BLOCKS = 200
WORST = 6
CYCLES_HOW = "vendor compiler estimate"
HOW = {"simulate": "vendor simulator", "fake": "edgevit estimate"}


def heat(diagnosis: dict[str, Any]) -> Heat | None:
    """The error of each tensor as a table of blocks by kinds; None where nothing was estimated."""
    effects = diagnosis.get("effects")
    if not isinstance(effects, dict):
        return None
    values = {clean(name, 80): number(value) for name, value in effects.items()}
    known = {name: value for name, value in values.items() if value is not None}
    found = {name: BLOCK.fullmatch(name) for name in known}
    kinds = tuple(dict.fromkeys(match[2] for match in found.values() if match))
    blocks = tuple(
        sorted({int(match[1]) for match in found.values() if match and int(match[1]) < MAX_BLOCKS})
    )
    if not known:
        return None
    return Heat(
        kinds=kinds,
        blocks=blocks,
        cells=tuple(tuple(known.get(f"blocks.{block}.{kind}") for kind in kinds) for block in blocks),
        outside=tuple((name, known[name]) for name, match in found.items() if not match),
        worst=tuple(sorted(known.items(), key=lambda item: -item[1])[:WORST]),
        weights_only=kl_of(diagnosis.get("weights_only_kl")),
        activations_only=kl_of(diagnosis.get("activations_only_kl")),
    )


def kl_of(value: object) -> float | None:
    """A KL divergence, alone or in a record of several errors."""
    return number(value.get("kl")) if isinstance(value, dict) else number(value)


def placement(details: dict[str, Any], board: dict[str, Any]) -> Placement | None:
    """The compiler's layers in order; None for backends without. Raises LookupError or the like when damaged."""
    values = details.get("placement")
    if not isinstance(values, dict):
        return None
    compiled = Compiled.from_json(values)
    reasons = (board.get("npu") or {}).get("cpu_ops") or {}
    return Placement(
        cycles=compiled.cycles,
        how=CYCLES_HOW,
        traffic_kb=compiled.traffic_kb,
        internal_bytes=compiled.internal_bytes,
        weight_bytes=compiled.weight_bytes,
        layers=bars(compiled, board),
        cpu_ops=tuple(
            (clean(op.op), op.count, op.traffic_kb, clean(op.reason)) for op in compiled.cpu_ops(reasons)
        ),
        disabled_rules=lines(details.get("disabled_rules")),
    )


def bars(compiled: Compiled, board: dict[str, Any]) -> tuple[LayerBar, ...]:
    """Each layer's part of the work, with its estimated time where the board's clocks are known."""
    try:
        chip = estimates.capabilities(Board.model_validate(board))
    except (InputError, ValueError):  # an older profile, or one without clocks
        chip = None
    costs = estimates.fitted().costs
    return tuple(
        LayerBar(
            index=layer.index,
            op=clean(layer.op, 40),
            name=clean(layer.name, 120),
            part="cpu" if layer.on_cpu else estimates.part_of(layer),
            on_cpu=layer.on_cpu,
            cycles=layer.cycles_total,
            ms=sum(estimates.times(layer, chip, costs).values()) if chip else None,
        )
        for layer in compiled.layers
        if layer.op not in BORDER_OPS
    )


def delegate(details: dict[str, Any]) -> Delegate | None:
    """A CPU delegate's partitions; None for backends without."""
    partitions, operations = number(details.get("partitions")), details.get("operations")
    if partitions is None or not isinstance(operations, dict):
        return None
    outside = details.get("outside") or {}
    rows = [(clean(name, 60), whole(count), whole(outside.get(name))) for name, count in operations.items()]
    return Delegate(int(partitions), tuple(sorted(rows, key=lambda row: (-row[2], -row[1]))))


def latency(values: object) -> Latency | None:
    """The manifest's estimate. Raises LookupError when it lacks its interval."""
    if not isinstance(values, dict):
        return None
    parts = values.get("parts") or {}
    known = ((clean(name, 40), number(ms)) for name, ms in parts.items())
    return Latency(
        ms=required(values, "latency_ms"),
        low=required(values, "low_ms"),
        high=required(values, "high_ms"),
        parts=tuple((name, ms) for name, ms in known if ms),
        label=clean(values.get("label") or "edgevit estimate"),
    )


def precision(result: dict[str, Any], step: dict[str, Any], export: dict[str, Any]) -> Precision:
    """Which tensors stay in 16 bits, what made the model fit int8, which plans were tried."""
    plan = as_dict(as_dict(step.get("inputs")).get("plan")) | as_dict(result.get("plan"))
    search, diagnosis = as_dict(result.get("search")), as_dict(result.get("diagnosis"))
    int8 = as_dict(as_dict(export.get("metrics")).get("int8"))
    conditioning = diagnosis.get("conditioning") or int8.get("conditioning") or []
    chosen = as_dict(search.get("chosen"))
    return Precision(
        words=in_words(str(result.get("precision")), plan),
        sixteen_bit=tuple(clean(name, 80) for name in plan.get("sixteen_bit") or ()),
        conditioning=tuple(conditioned(each) for each in conditioning if isinstance(each, dict)),
        sentence=clean(search.get("sentence"), 600) or None,
        trials=tuple(trial(each, chosen) for each in search.get("tried") or () if isinstance(each, dict)),
    )


def in_words(name: str, plan: dict[str, Any]) -> str:
    """The plan in a sentence."""
    if name == "float":
        return "float: nothing is quantized"
    kept = len(plan.get("sixteen_bit") or ())
    ranges = len(plan.get("ranges") or {})
    whose = (
        f"ranges of {ranges} tensors chosen by edgevit" if ranges else "ranges chosen by the vendor's tool"
    )
    return f"{name}, {kept} tensors kept in 16 bits, {whose}" if kept else f"{name} everywhere, {whose}"


def conditioned(values: dict[str, Any]) -> tuple[str, str]:
    """A conditioning step: what it did, and whether it was kept with the KL before and after."""
    before, after = kl_of(values.get("before")), kl_of(values.get("after"))
    kept = values.get("kept")
    moved = "" if before is None or after is None else f"KL {before:.4f} to {after:.4f}"
    state = "" if kept is None else ("kept" if kept else "not kept")
    said = [clean(values.get(name), 200) for name in ("step", "name", "what") if values.get(name)]
    return ": ".join(said), ", ".join(part for part in (state, moved) if part)


def trial(values: dict[str, Any], chosen: dict[str, Any]) -> Trial:
    """One plan or recipe that was measured."""
    added, points = clean(values.get("added"), 100), number(values.get("drop_points"))
    upper = number(values.get("drop_upper"))
    return Trial(
        label=clean(values.get("label"), 120) or (f"up to {added}" if added else "everything int8"),
        cost=cost_of(values),
        drop=points if points is not None else number(values.get("points")),
        upper=upper if upper is not None else number(values.get("upper")),
        agreement=number(values.get("agreement")),
        how=HOW.get(str(values.get("how")), clean(values.get("how"), 80)),
        state=state_of(values, chosen),
    )


def cost_of(values: dict[str, Any]) -> str:
    """What a plan costs: its latency, else its cycles beyond everything int8."""
    ms, ratio = number(values.get("latency_ms")), number(values.get("latency_ratio"))
    cycles = number(values.get("cycles"))
    if ms is not None:
        return milliseconds(ms) + (f", {ratio:.2f}x as fast as float" if ratio is not None else "")
    return "" if cycles is None else f"+{count(cycles)} cycles"


def state_of(values: dict[str, Any], chosen: dict[str, Any]) -> str:
    """What became of a plan. The search for 16-bit tensors names its choice by cycles, recipes by their label."""
    by_label = values.get("label") is not None and values.get("label") == chosen.get("label")
    by_cycles = values.get("how") == "simulate" and values.get("cycles") == chosen.get("cycles")
    if chosen and (by_label or by_cycles):
        return "chosen"
    if values.get("failure"):
        return clean(values["failure"], 200)
    return "good enough" if values.get("accepted") else ""
