"""Whether a compiler's float artefact computes the model, and the search for what to leave out where it does not.

The search knows no vendor: it is given names of passes that can be left out and a way to build without some of
them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from edgevit.backends.protocol import CompileResult

# Relative to the outputs' norm: the cosine is then above 0.9995. Float16 itself errs by a thousandth or less.
TOLERANCE = 0.03
# A compiler rounds in other places than the arithmetic has to.
OWN_ERRORS = 3.0
# Beyond it an int8 artefact is refused too; below, float16 itself may be what this model does not bear.
CLEARLY_WRONG = 0.1
REPAIR_SECONDS = 120.0  # of a search; with the builds around it three minutes

Verdict = Literal["right", "wrong", "died"]


@dataclass(frozen=True)
class Probe:
    """Images to prove an artefact on, pixels uint8 [n, height, width, channels] .npy, and the float model's
    `outputs` on them, float32 [n, values] .npy: all outputs side by side, of so many values each (`sizes`)."""

    pixels: Path
    outputs: Path
    sizes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Proof:
    """A float artefact against the float model on `images` probe images, as built and repaired.

    `error` (infinite: it was not made, or gave no numbers) and `repaired` (None: not needed, or not found)
    are relative errors of the outputs. `options` are the backend's own that leave out what was wrong,
    `left_out` its names. `cycles` are the compiler's own before and after. `own_error` is what the float
    type does to the model by itself, where that was asked. `reason` is what is known of the cause in words;
    it `overflows` where the model's own values are more than the target's float type holds, which says
    nothing about int8. `made` is the artefact that is right, with its outputs on what the request asked
    for.
    """

    images: int
    error: float
    repaired: float | None = None
    left_out: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    cycles: tuple[int, int] | None = None
    builds: int = 1
    own_error: float = 0.0
    reason: str | None = None
    overflows: bool = False
    made: CompileResult | None = None

    @property
    def right(self) -> bool:
        """Whether the artefact computes the model, repaired or not."""
        return self.error <= self.tolerance or (self.repaired is not None and self.repaired <= self.tolerance)

    @property
    def tolerance(self) -> float:
        """The relative error up to which an artefact counts as right: what its float type does itself, and more."""
        return max(TOLERANCE, OWN_ERRORS * self.own_error)

    def to_json(self) -> dict[str, Any]:
        """Plain values for the manifest."""
        made = None if self.made is None else self.made.to_json()
        finite = self.error if math.isfinite(self.error) else None  # JSON knows no infinity
        return {**asdict(replace(self, made=None)), "error": finite, "made": made, "right": self.right}


def relative_error(found: npt.ArrayLike, expected: npt.ArrayLike, sizes: Sequence[int] = ()) -> float:
    """Norm of the difference of outputs [n, values] over the norm of those expected; infinite where not finite.

    The largest of several outputs of `sizes` values each: a large one must not hide what is wrong in a small one.
    """
    ours, theirs = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    if ours.shape != theirs.shape or not np.isfinite(ours).all():
        return float("inf")
    ends = np.cumsum(sizes, dtype=np.int64)[:-1]
    parts = zip(np.split(ours, ends, axis=1), np.split(theirs, ends, axis=1), strict=True)
    return max(float(np.linalg.norm(a - b)) / max(float(np.linalg.norm(b)), 1e-12) for a, b in parts)


def smallest_cause(
    names: Sequence[str],
    attempt: Callable[[tuple[str, ...]], Verdict],
    *,
    seconds: float = REPAIR_SECONDS,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[str, ...] | None:
    """The fewest of `names` without which `attempt` is right, by halving groups; None where none is found in time.

    A group that still builds wrong holds no cause; one that the compiler dies without is split, as is one that is
    right, until a single name is left or no half of it is enough.
    """
    deadline = clock() + seconds
    pending, best = [tuple(names)] if names else [], None
    while pending and clock() < deadline:
        group = pending.pop(0)
        verdict = attempt(group)
        if verdict == "right":
            best, pending = group, []
        if verdict != "wrong" and len(group) > 1:
            middle = len(group) // 2
            pending += [group[:middle], group[middle:]]
    return best
