"""What is known of an artefact's tensors and layers: error by tensor, precision plan, placement, latency."""

from __future__ import annotations

import math
import re
from collections.abc import Collection

from edgevit.errors import InputError
from edgevit.placement import estimate as estimates
from edgevit.placement.estimate import Estimate
from edgevit.placement.layers import BORDER_OPS
from edgevit.placement.layers import Placement as Compiled
from edgevit.reporting.sections import Delegate, Heat, Latency, LayerBar, Placement, Precision, Trial
from edgevit.reporting.text import clean, count, lines, milliseconds, number
from edgevit.run import results
from edgevit.run.results import Details, Diagnosis, Plan, Result, TransformRecord
from edgevit.targets.precisions import FLOAT
from edgevit.targets.profiles import Board

BLOCK = re.compile(r"blocks\.(\d+)\.([\w.]+)")
MAX_BLOCKS = 200
WORST = 6
CYCLES_HOW = "vendor compiler estimate"
HOW = {"simulate": "vendor simulator", "fake": "edgevit estimate"}


def heat(diagnosis: Diagnosis | None, sixteen_bit: Collection[str]) -> Heat | None:
    """The error of each tensor as a table of blocks by kinds, and in order; None where nothing was estimated."""
    if diagnosis is None or not diagnosis.effects:
        return None
    known = {clean(name, 80): value for name, value in diagnosis.effects.items() if math.isfinite(value)}
    kept = {clean(name, 80) for name in sixteen_bit}
    found = {name: BLOCK.fullmatch(name) for name in known}
    kinds = tuple(dict.fromkeys(match[2] for match in found.values() if match))
    blocks = tuple(
        sorted({int(match[1]) for match in found.values() if match and int(match[1]) < MAX_BLOCKS})
    )
    return Heat(
        kinds=kinds,
        blocks=blocks,
        cells=tuple(tuple(known.get(f"blocks.{block}.{kind}") for kind in kinds) for block in blocks),
        outside=tuple((name, known[name]) for name, match in found.items() if not match),
        worst=tuple(sorted(known.items(), key=lambda item: -item[1])[:WORST]),
        order=tuple((name, value, name in kept) for name, value in known.items()),
        weights_only=number(diagnosis.weights_only_kl),
        activations_only=number(diagnosis.activations_only_kl),
    )


def placement(details: Details, board: Board | None) -> Placement | None:
    """The compiler's layers in order; None for backends without."""
    compiled = details.placement
    if compiled is None:
        return None
    reasons = board.npu.cpu_ops if board and board.npu else {}
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
        disabled_rules=lines(details.disabled_rules),
    )


def bars(compiled: Compiled, board: Board | None) -> tuple[LayerBar, ...]:
    """Each layer's part of the work, with its estimated time where the board's clocks are known."""
    try:
        chip = estimates.capabilities(board) if board else None
    except InputError:  # a profile without clocks
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


def delegate(details: Details) -> Delegate | None:
    """A CPU delegate's partitions; None for backends without."""
    if details.partitions is None or not details.operations:
        return None
    rows = [
        (clean(name, 60), count, details.outside.get(name, 0)) for name, count in details.operations.items()
    ]
    return Delegate(details.partitions, tuple(sorted(rows, key=lambda row: (-row[2], -row[1]))))


def latency(found: Estimate | None) -> Latency | None:
    """The manifest's estimate."""
    if found is None:
        return None
    parts = tuple((clean(name, 40), ms) for name, ms in found.parts.items() if ms)
    return Latency(found.latency_ms, found.low_ms, found.high_ms, parts, clean(found.label))


def precision(result: Result) -> Precision:
    """Which tensors stay in 16 bits, what made the model fit int8, which plans were tried."""
    search = result.search
    return Precision(
        description=describe(result.plan),
        sixteen_bit=tuple(clean(name, 80) for name in result.plan.sixteen_bit),
        conditioning=tuple(map(conditioned, result.diagnosis.conditioning if result.diagnosis else ())),
        explanation=clean(search.explanation, 600) if search else None,
        trials=tuple(trial(each, search.chosen) for each in search.tried) if search else (),
    )


def describe(plan: Plan) -> str:
    """The plan in a sentence."""
    if plan.precision == FLOAT:
        return "float: nothing is quantized"
    kept = len(plan.sixteen_bit)
    whose = "ranges chosen by the vendor's tool"
    if plan.ranges:
        whose = f"ranges of {plan.ranges} tensors chosen by edgevit"
    name = clean(plan.precision, 40)
    return f"{name}, {kept} tensors kept in 16 bits, {whose}" if kept else f"{name} everywhere, {whose}"


def conditioned(record: TransformRecord) -> tuple[str, str]:
    """A transform for int8: what it did, and whether it was kept with the KL before and after."""
    said = [clean(each, 200) for each in (record.name, record.what) if each]
    moved = f"error {record.before.kl:.4f} to {record.after.kl:.4f}"
    return ": ".join(said), f"{'kept' if record.kept else 'not kept'}, {moved}"


def trial(record: results.Trial, chosen: results.Trial) -> Trial:
    """One plan or recipe that was measured."""
    added = clean(record.added, 100)
    return Trial(
        label=clean(record.label, 120) or (f"up to {added}" if added else "everything int8"),
        cost=cost_of(record),
        drop=number(record.points),
        upper=number(record.upper),
        agreement=number(record.agreement),
        how=HOW.get(record.how or "", clean(record.how, 80)),
        state=state_of(record, chosen),
    )


def cost_of(record: results.Trial) -> str:
    """What a plan costs: its cycles and estimated time, or its latency; else its cycles beyond everything int8."""
    ms, ratio = record.latency_ms, record.latency_ratio
    if record.total_cycles is not None:
        estimated = "" if ms is None else f", about {milliseconds(ms)}"
        return f"{count(record.total_cycles)} cycles{estimated}"
    if ms is not None:
        return milliseconds(ms) + (f", {ratio:.2f}x as fast as float" if ratio is not None else "")
    return "" if record.cycles is None else f"+{count(record.cycles)} cycles"


def state_of(record: results.Trial, chosen: results.Trial) -> str:
    """What became of a plan. The search for 16-bit tensors names its choice by cycles, recipes by their label."""
    by_label = record.label is not None and record.label == chosen.label
    by_cycles = record.how == "simulate" and record.cycles == chosen.cycles
    if by_label or by_cycles:
        return "chosen"
    if record.failure:
        return clean(record.failure, 200)
    return "good enough" if record.accepted else ""
