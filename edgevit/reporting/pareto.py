"""Accuracy lost against cost, artefact by artefact; only costs of one unit obtained in one way share a plot."""

from __future__ import annotations

from collections.abc import Iterator

from edgevit.reporting.content import Artefact, Pareto, Point, Run
from edgevit.reporting.text import clean

BOARD, HOST = "measured on boards", "host CPU"
Entry = tuple[tuple[str, str, str], str, float, Artefact]


def paretos(runs: tuple[Run, ...]) -> tuple[Pareto, ...]:
    """A plot for each kind of cost that two or more artefacts have."""
    groups: dict[tuple[str, str, str], list[tuple[str, float, Artefact]]] = {}
    for key, label, cost, artefact in entries(runs):
        groups.setdefault(key, []).append((label, cost, artefact))
    return tuple(
        Pareto(title, unit, how, points(members))
        for (title, unit, how), members in groups.items()
        if len(members) > 1
    )


def entries(runs: tuple[Run, ...]) -> Iterator[Entry]:
    """Every cost of every artefact whose loss is known. Cycles of different boards are different units."""
    for run in runs:
        prefix = f"{run.name}: " if len(runs) > 1 else ""
        for each in run.artefacts:
            if each.loss is None or each.loss.drop_points is None:
                continue
            label = clean(prefix + each.title, 60)
            for bench in each.benches:
                if bench.fastest is not None:
                    board = bench.how.startswith("measured on")
                    where = f"{label} ({bench.where})" if board else label
                    key = ("Latency", "ms", BOARD if board else clean(bench.how, 60))
                    yield key, where, bench.fastest.typical, each
            if each.latency is not None:
                yield ("Latency", "ms", each.latency.label), label, each.latency.ms, each
            if each.placement is not None:
                yield (
                    ("Work", f"cycles on {each.target}", each.placement.how),
                    label,
                    each.placement.cycles,
                    each,
                )
            if each.bytes:
                yield ("Size", "MB", "file size"), label, each.bytes / 1e6, each


def points(members: list[tuple[str, float, Artefact]]) -> tuple[Point, ...]:
    """Points by rising cost, the ones that no other beats in both marked."""
    made = []
    for label, cost, each in sorted(members, key=lambda member: member[1]):
        assert each.loss is not None and each.loss.drop_points is not None
        made.append((label, cost, each.loss))
    drops = [(cost, loss.drop_points or 0.0) for _, cost, loss in made]
    return tuple(
        Point(label, *at, loss.drop_low, loss.drop_high, not beaten(at, drops))
        for (label, _, loss), at in zip(made, drops, strict=True)
    )


def beaten(point: tuple[float, float], others: list[tuple[float, float]]) -> bool:
    """Whether another point is no worse in both and better in one."""
    return any(cost <= point[0] and drop <= point[1] and (cost, drop) != point for cost, drop in others)
