"""Where a compiler breaks a graph whatever its own build leaves out, edgevit spells the graph in another way.

Its rewrites are left out, the fewest that it takes; then torch writes the whole graph in another of its ways.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from edgevit.backends.proof import Verdict, smallest_cause
from edgevit.backends.registry import backend_of
from edgevit.conversion.proof import percent, proved, wrong_by
from edgevit.errors import EdgevitError, ToolFailed
from edgevit.rewrites.roles import SPELLINGS
from edgevit.run.step import Step
from edgevit.targets.profiles import Board

if TYPE_CHECKING:
    from edgevit.conversion.artefacts import Conversion


def settled(conversion: Conversion, board: Board, precision: str) -> Step | None:
    """The proof of a graph that is right: without the fewest of its rewrites, or in another spelling, if need be.

    What is left out is kept in `conversion.breaking`, for every later step. Where nothing helps it is the proof of
    the graph as it is usually made, or the ToolFailed that it died with; None where a graph isn't proved.
    """
    key, died, off = (board.id, precision), None, math.inf
    conversion.breaking.pop(key, None)
    try:
        first = proved(conversion, board, precision)
    except ToolFailed as error:
        first, died = None, error
    else:
        if first is None or first.metrics["right"] or first.metrics["overflows"]:
            return first
        off = wrong_by(first)

    def attempt(names: tuple[str, ...]) -> Verdict:
        conversion.breaking[key] = names, off
        conversion.progress.stage(f"{board.id} {precision}: without {' and '.join(names)}")
        try:
            found = proved(conversion, board, precision)
        except EdgevitError:
            return "died"
        return "right" if found is not None and found.metrics["right"] else "wrong"

    cause = smallest_cause(changed(conversion, board, precision), attempt)
    if cause is None:
        spellings = other_spellings(conversion, board)
        fewer = (spellings[:count] for count in range(1, len(spellings) + 1))
        cause = next((names for names in fewer if attempt(names) == "right"), None)
    conversion.breaking.pop(key, None)
    if cause is None:
        if died is not None:
            raise died
        return first
    conversion.breaking[key] = cause, off
    return proved(conversion, board, precision)


def changed(conversion: Conversion, board: Board, precision: str) -> list[str]:
    """The rewrites that changed the graph."""
    records = conversion.exported(board, precision).metrics["rewrites"]
    return [record["name"] for record in records if record["changed"]]


def other_spellings(conversion: Conversion, board: Board) -> tuple[str, ...]:
    """The spellings that may be left out, one after the other; the last must stay."""
    if backend_of(board).export_format != "onnx":
        return ()
    return SPELLINGS[:-1] if conversion.exporting.graph is not None else SPELLINGS[1:-1]


def notes(conversion: Conversion, board: Board, precision: str) -> list[str]:
    """Which of edgevit's own rewrites or spellings are left out, and why."""
    found = conversion.breaking.get((board.id, precision))
    if found is None:
        return []
    names, off = found
    how = f"outputs off by {percent(off)} in float" if math.isfinite(off) else "it died"
    what, done = "edgevit's " + " and ".join(names), "built without, as --without does"
    if names[-1] in SPELLINGS:
        what = " and ".join(names)
        done = f"built from {SPELLINGS[SPELLINGS.index(names[-1]) + 1]}"
    return [f"the compiler breaks this model with {what} ({how}): {done}"]
