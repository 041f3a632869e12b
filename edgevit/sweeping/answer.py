"""The answer to a budget: the most accurate point within it, how sure that is, or the nearest miss."""

from __future__ import annotations

from collections.abc import Sequence

from edgevit.sweeping.rows import Row


def answer(
    rows: Sequence[Row], target: str, budget_ms: float | None, fps: float | None, max_mb: float | None
) -> str:
    """A sentence or two for one target."""
    made = [
        row for row in rows if row.state == "done" and row.point.target == target and row.drop is not None
    ]
    if not made:
        return f"{target}: nothing was made"
    small = [row for row in made if max_mb is None or (row.megabytes or 0.0) <= max_mb]
    if not small:
        nearest = min(made, key=lambda row: row.megabytes or 0.0)
        size = f"{nearest.megabytes:.1f} MB"
        return f"{target}: nothing within {max_mb:g} MB; {told(nearest)} is the smallest, {size}"
    if budget_ms is None:
        return f"{target}: {told(most_accurate(small))}"
    timed = [row for row in small if row.ms is not None]
    wish = f"{fps:g} frames a second" if fps is not None else f"{budget_ms:g} ms an image"
    if not timed:
        best = most_accurate(small)
        return (
            f"{target}: whether {wish} can be had is not known, there is no estimate for it; {told(best)}. "
            f"Measure with {bench(best)}"
        )
    within = [row for row in timed if (row.ms or 0.0) <= budget_ms]
    if not within:
        nearest = min(timed, key=lambda row: row.ms or 0.0)
        factor = (nearest.ms or 0.0) / budget_ms
        return (
            f"{target}: {wish} was not reached; {told(nearest)} is the nearest, {time_of(nearest)}: it would have "
            f"to be {factor:.1f} times as fast. Try a smaller --resolution or a smaller model"
        )
    sure = [row for row in within if (row.ms_high or row.ms or 0.0) <= budget_ms]
    best = most_accurate(within)
    text = f"{target}: {told(best)}, {time_of(best)}"
    if best in sure:
        ending = "" if measured(best) else ", even at the slow end"
        return f"{text}: {wish} is kept{ending}"
    text += f": can't promise {wish}; measure with {bench(best)}"
    if sure:
        safe = most_accurate(sure)
        text += f". {told(safe)}, {time_of(safe)}, keeps it even at the slow end"
    return text


def most_accurate(rows: Sequence[Row]) -> Row:
    """The least lost; of equals the fastest."""
    return min(rows, key=lambda row: (round(row.drop or 0.0, 2), row.ms or 0.0))


def told(row: Row) -> str:
    """A point and what it lost."""
    name = f"{row.point.variant} {row.point.precision}"
    return f"{name} loses {row.drop:.2f} [{row.low:.1f}, {row.high:.1f}] {row.unit} (n = {row.n})"


def time_of(row: Row) -> str:
    """Milliseconds, and where they come from."""
    if measured(row):
        return f"{row.ms:.1f} ms ({row.ms_from})"
    return f"between {row.ms_low:.0f} and {row.ms_high:.0f} ms ({row.ms_from})"


def measured(row: Row) -> bool:
    """Whether a board was asked."""
    return row.ms_from.startswith("measured on")


def bench(row: Row) -> str:
    """The command that would tell."""
    return f"edgevit bench {row.run} --board ssh://USER@BOARD"
