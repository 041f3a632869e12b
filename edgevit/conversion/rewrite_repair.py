"""Where a compiler breaks a graph whatever its own build leaves out, edgevit's rewrites are left out instead."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgevit.backends.proof import Verdict, smallest_cause
from edgevit.conversion.proof import percent, proved, wrong_by
from edgevit.errors import ToolchainError
from edgevit.run.step import Step
from edgevit.targets.profiles import Board

if TYPE_CHECKING:
    from edgevit.conversion.artefacts import Conversion


def settled(conversion: Conversion, board: Board, precision: str) -> Step | None:
    """The proof of a graph that is right, without the fewest of its rewrites where it takes that.

    What is left out is kept in `conversion.breaking`, for every later step. Where nothing helps it is the proof of
    the graph with all; None where a graph isn't proved.
    """
    key = (board.id, precision)
    conversion.breaking.pop(key, None)
    first = proved(conversion, board, precision)
    if first is None or first.metrics["right"] or first.metrics["overflows"]:
        return first
    records, off = conversion.exported(board, precision).metrics["rewrites"], wrong_by(first)

    def attempt(names: tuple[str, ...]) -> Verdict:
        conversion.breaking[key] = names, off
        conversion.progress.stage(f"{board.id} {precision}: without edgevit's {' and '.join(names)}")
        try:
            found = proved(conversion, board, precision)
        except ToolchainError:
            return "died"
        return "right" if found is not None and found.metrics["right"] else "wrong"

    cause = smallest_cause([record["name"] for record in records if record["changed"]], attempt)
    conversion.breaking.pop(key, None)
    if cause is None:
        return first
    conversion.breaking[key] = cause, off
    return proved(conversion, board, precision)


def notes(conversion: Conversion, board: Board, precision: str) -> list[str]:
    """Which of edgevit's own rewrites are left out, and why."""
    found = conversion.breaking.get((board.id, precision))
    if found is None:
        return []
    names, off = found
    return [
        f"the compiler breaks this model with edgevit's {' and '.join(names)} (outputs off by {percent(off)} in "
        "float): built without, as --without does"
    ]
