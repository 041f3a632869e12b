"""Which points need not be compiled: cheap signals say that another is better in everything, or none can fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgevit.sweeping.grid import Point
from edgevit.sweeping.rows import Row

FEW, TIMES = 200, 5  # images that points are first compared on, and how many times as many next


@dataclass(frozen=True)
class Outlook:
    """What is known of a point before it is made on all images: the least it loses, the lower end of a 95 %
    interval (of the float model made smaller, 0 of the whole; once it was made on fewer images, its own), and the
    least it costs (everything int8; once it was made, what it does)."""

    point: Point
    drop_low: float
    ms: float | None = None
    ms_low: float | None = None
    cycles: int | None = None


def fewer(images: int) -> list[int]:
    """How many of the validation images all points that are left are made on, one after another, before all.

    Successive halving (Jamieson and Talwalkar, 2016), but for what is left out: what loses more for sure, and not a
    share. Each time the next are TIMES as many, so that the last come to most of the work.
    """
    found, few = list[int](), FEW
    while few * TIMES <= images:
        found.append(few)
        few *= TIMES
    return found


def sharper(outlook: Outlook, row: Row) -> Outlook:
    """What is known of a point once it was made on fewer images, as `row` tells."""
    if row.low is None:
        return outlook
    return replace(outlook, drop_low=row.low, ms=row.ms, ms_low=row.ms_low, cycles=row.cycles)


def why_skip(outlook: Outlook, done: Sequence[Row]) -> str | None:
    """Why a point can't be among the best of its target; None where it may be.

    One that is made already is no slower than this one's least, and loses less than this one's least, interval
    against interval.
    """
    for row in done:
        if row.point.target != outlook.point.target or row.state != "done" or row.high is None:
            continue
        cheaper = (
            at_most(row.ms, outlook.ms) if outlook.ms is not None else at_most(row.cycles, outlook.cycles)
        )
        if cheaper and row.high < outlook.drop_low:
            return f"{row.point.name} costs no more and loses less"
    return None


def at_most(found: float | None, least: float | None) -> bool:
    """Whether a known cost is no more than another known one."""
    return found is not None and least is not None and found <= least


def over_budget(outlooks: Sequence[Outlook], budget_ms: float | None) -> dict[Point, str]:
    """Points that miss a limit to time even at the low end of their estimate, less the fastest of each target."""
    if budget_ms is None:
        return {}
    found: dict[Point, str] = {}
    for target in dict.fromkeys(each.point.target for each in outlooks):
        known = [each for each in outlooks if each.point.target == target and each.ms_low is not None]
        slow = [each for each in known if (each.ms_low or 0.0) > budget_ms]
        if len(slow) == len(known) and known:
            slow.remove(min(known, key=lambda each: each.ms or 0.0))
        found |= {
            each.point: f"at least {each.ms_low:.1f} ms by the estimate, {budget_ms:.1f} are allowed"
            for each in slow
        }
    return found
