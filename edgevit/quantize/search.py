"""The fewest cycles that keep a model's predictions: a plan found with estimates, proved by the simulator.

Moving units to 16 bits in the order of error removed per cycle gives a ladder of plans, from everything int8
upwards. Fake quantization finds the first rung that meets the target, the vendor's simulator has the last
word: where it disagrees, the search climbs on; where a rung is met with room, it steps back down.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax

from edgevit.files import write_atomically
from edgevit.progress import QUIET, Progress
from edgevit.quantize.units import Costs, Errors, Unit

Logits = npt.NDArray[np.float32]
Simulate = Callable[[tuple[str, ...]], Logits]

# Changed predictions a target allows per point of accuracy: half of them may be losses, and the accuracy on
# other images scatters with their square root.
CHANGES_PER_POINT = 3.0
CONFIDENCE = 1.645  # one-sided 95 %


@dataclass(frozen=True)
class Drop:
    """Accuracy lost, estimated without labels: `points` expected, `upper` with 95 % confidence.

    The float model's own probabilities stand for the labels: a prediction changed from class a to class b
    costs p(a) - p(b).
    """

    points: float
    upper: float
    agreement: float
    cosine: float
    kl: float
    images: int

    def meets(self, max_drop: float) -> bool:
        """Whether `max_drop` points are kept, with the confidence that so many images give."""
        return self.upper <= max_drop and 100 * (1 - self.agreement) <= CHANGES_PER_POINT * max_drop

    def shortfall(self, max_drop: float) -> float:
        """At most 1 where the target is met; otherwise how many times it is missed."""
        return max(self.upper, 100 * (1 - self.agreement) / CHANGES_PER_POINT) / max(max_drop, 1e-9)


def drop_of(logits: Logits, reference: Logits) -> Drop:
    """Compare an int8 model's logits [n, classes] with the float model's."""
    ours, theirs = logits.astype(np.float64), reference.astype(np.float64)
    log_p, log_q = log_softmax(theirs, axis=1), log_softmax(ours, axis=1)
    p, rows = np.exp(log_p), np.arange(len(theirs))
    cost = 100 * (p[rows, theirs.argmax(1)] - p[rows, ours.argmax(1)])
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    spread = float(cost.std(ddof=1)) / np.sqrt(len(cost)) if len(cost) > 1 else 100.0
    return Drop(
        points=float(cost.mean()),
        upper=float(cost.mean() + CONFIDENCE * spread),
        agreement=float((cost == 0).mean()),
        cosine=float(((ours * theirs).sum(1) / norms).mean()),
        kl=float((p * (log_p - log_q)).sum(1).mean()),
        images=len(theirs),
    )


@dataclass(frozen=True)
class Rung:
    """One plan of the ladder: its 16-bit tensors, the unit added last, extra cycles, estimated KL."""

    added: str
    words: str
    sixteen_bit: tuple[str, ...]
    cycles: float
    compiler_cycles: float
    estimated_kl: float


def ladder(units: list[Unit], errors: Errors, costs: Costs, budget: float | None = None) -> list[Rung]:
    """Plans from everything int8 upwards, each adding the unit that removes most error per cycle."""
    kept: frozenset[str] = frozenset()
    error, cost = errors(kept), costs(kept)
    rungs = [Rung("", "everything int8", (), 0.0, 0.0, error)]
    while True:
        best: tuple[float, Unit, float, float] | None = None
        for unit in units:
            wider = kept | unit.tensors
            if wider == kept or (budget is not None and costs(wider) > budget):
                continue
            gain, price = error - errors(wider), max(costs(wider) - cost, 1.0)
            if gain > 0 and (best is None or gain / price > best[0]):
                best = (gain / price, unit, errors(wider), costs(wider))
        if best is None:
            return rungs
        _, unit, error, cost = best
        kept |= unit.tensors
        tensors = tuple(sorted(kept))
        rungs.append(Rung(unit.name, unit.words, tensors, cost, costs.compiler(kept), error))


@dataclass(frozen=True)
class Found:
    """The outcome: the plan's rung, what the simulator measured on it, whether the target was met, why."""

    rung: Rung
    measured: Drop
    met: bool
    sentence: str
    trials: tuple[dict[str, Any], ...]


class Trials:
    """Measured plans, remembered in a file so that a stopped search goes on where it was."""

    def __init__(self, path: Path | None, key: str) -> None:
        self.path, self.key = path, key
        self.done: dict[str, dict[str, Any]] = {}
        if path is not None and path.is_file():
            stored = json.loads(path.read_text(encoding="utf-8"))
            if stored.get("key") == key:
                self.done = stored["trials"]

    def measure(self, how: str, rung: Rung, reference: Logits, run: Simulate) -> Drop:
        """Measure a plan, or recall it."""
        name = f"{how}: {' '.join(rung.sixteen_bit)}"
        if name not in self.done:
            drop = drop_of(run(rung.sixteen_bit), reference)
            self.done[name] = {"how": how, "added": rung.added, "cycles": rung.cycles, **asdict(drop)}
            if self.path is not None:
                state = json.dumps({"key": self.key, "trials": self.done}, indent=1)
                write_atomically(self.path, state)
        fields = Drop.__dataclass_fields__
        return Drop(**{field: self.done[name][field] for field in fields})


def search(
    rungs: list[Rung],
    *,
    fake: Simulate,
    simulate: Simulate,
    references: Mapping[str, Logits],
    max_drop: float,
    minutes: float,
    state: Path | None = None,
    key: str = "",
    progress: Progress = QUIET,
) -> Found:
    """The first rung whose simulation keeps the predictions within `max_drop` points.

    `fake` and `simulate` give logits of a plan by fake quantization and by the vendor's simulator, on images
    whose float logits are `references["fake"]` and `references["simulate"]`. Stops after `minutes` with the
    best plan so far. Nothing is drawn at random: the same inputs give the same plan.
    """
    trials, deadline = Trials(state, key), time.monotonic() + 60 * minutes
    rung = first_met(
        rungs, lambda rung: trials.measure("fake", rung, references["fake"], fake), max_drop, deadline
    )
    measured: dict[int, Drop] = {}
    failed, met = -1, len(rungs)
    while True:
        progress.advance(len(measured), 0, f"simulating {rungs[rung].words}")
        measured[rung] = trials.measure("simulate", rungs[rung], references["simulate"], simulate)
        if measured[rung].meets(max_drop):
            met = rung
        else:
            failed = max(failed, rung)
        following = next_rung(failed, met, len(rungs), measured[rung].shortfall(max_drop))
        if following is None or following in measured or time.monotonic() > deadline:
            break
        rung = following
    best = met if met < len(rungs) else min(measured, key=lambda number: measured[number].shortfall(max_drop))
    return Found(
        rungs[best],
        measured[best],
        met < len(rungs),
        sentence(rungs[best], measured[best], met < len(rungs), max_drop, following is None),
        tuple(trials.done.values()),
    )


def first_met(rungs: list[Rung], measure: Callable[[Rung], Drop], max_drop: float, deadline: float) -> int:
    """The lowest rung that meets the target by estimate, by halving; the top one if none does."""
    low, high = 0, len(rungs) - 1
    while low < high and time.monotonic() < deadline:
        middle = (low + high) // 2 if low else min(high, 0 if high == 0 else (high // 4))
        if measure(rungs[middle]).meets(max_drop):
            high = middle
        else:
            low = middle + 1
    return high


def next_rung(failed: int, met: int, count: int, shortfall: float) -> int | None:
    """Where to go on between the highest rung that failed and the lowest that met; None when they touch."""
    if met == count:
        climbed = failed + max(1, round((count - failed) * min(0.5, 0.1 * shortfall)))
        return min(climbed, count - 1) if failed < count - 1 else None
    return (failed + met) // 2 if met - failed > 1 else None


def sentence(rung: Rung, drop: Drop, met: bool, max_drop: float, exhausted: bool) -> str:
    """The outcome in plain words, and what would be needed where the target was missed."""
    outcome = (
        f"{drop.points:.2f} points expected drop (95 % below {drop.upper:.2f}), {100 * drop.agreement:.1f} % "
        f"equal predictions on {drop.images} calibration images, {len(rung.sixteen_bit)} tensors in 16 bits"
    )
    if met:
        return f"target of {max_drop} points met: {outcome}"
    if not exhausted:
        return (
            f"target of {max_drop} points not met in the time given: {outcome}. Allow more --search-minutes"
        )
    resolution = 100 * CONFIDENCE / drop.images
    need = (
        f"so few images can't show a drop below {resolution:.2f} points; give more calibration images"
        if resolution > max_drop
        else "keep the model in 16 bits (--precision float)"
    )
    return f"target of {max_drop} points not met by any plan: {outcome}. To meet it, {need}"
