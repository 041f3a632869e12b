"""The fewest cycles that keep a model's predictions: a plan found with estimates, proved by the simulator.

Moving units to 16 bits in the order of error removed per cycle gives a list of candidate plans, from everything
int8 to everything in 16 bits. Fake quantization finds the first candidate that meets the target, the vendor's
simulator has the last word: where it disagrees, the search climbs on; where there is room, it steps back down.
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

from edgevit.errors import ToolchainError
from edgevit.files import write_atomically
from edgevit.progress import QUIET, Progress
from edgevit.quantize.groups import Costs, Errors, Unit

Outputs = npt.NDArray[np.float32]
Simulate = Callable[[tuple[str, ...]], Outputs]

# Changed predictions, in percent, that a target allows per point of accuracy: as if a third were net losses.
CHANGES_PER_POINT = 3.0
CONFIDENCE = 1.645  # one-sided 95 %
FIRST_STEP = 4  # candidates
RIVALS = 4  # classes next to the predicted one that may overtake it


@dataclass(frozen=True)
class Drop:
    """Accuracy lost, estimated without labels: `points` expected, `upper` with 95 % confidence.

    `changes` is the share of predictions expected to change, in percent, `changes_upper` with 95 % confidence;
    `agreement` the share that did not on these images, 0..1, which so few images count coarsely.
    """

    points: float
    upper: float
    changes: float
    changes_upper: float
    agreement: float
    cosine: float
    kl: float
    images: int

    @property
    def least(self) -> float:
        """The smallest drop, in points, that this plan can be said to keep within."""
        return max(self.upper, self.changes / CHANGES_PER_POINT)

    def meets(self, max_drop: float) -> bool:
        """Whether `max_drop` points are kept, with the confidence that so many images give."""
        return self.least <= max_drop

    def shortfall(self, max_drop: float) -> float:
        """At most 1 where the target is met; otherwise how many times it is missed."""
        return self.least / max(max_drop, 1e-9)


def drop_of(outputs: Outputs, reference: Outputs, more: Outputs | None = None) -> Drop:
    """Compare an int8 model's outputs [n, classes] with the float model's on the same images.

    A hundred images show few changed predictions, by luck none. So every image's margins meet every image's
    errors: the share of pairs that would change is counted (a two-sample U-statistic), and the float model's
    own probabilities stand for the labels: a change from class a to class b costs p(a) - p(b). `more` are float
    outputs [m, classes] whose margins to use, of more images than were simulated.
    """
    ours, theirs = outputs.astype(np.float64), reference.astype(np.float64)
    margins, worth, leading = leads(theirs if more is None else more.astype(np.float64))
    if more is not None:
        leading = leads(theirs)[2]
    rows = np.arange(len(theirs))[:, None]
    moved = ours - theirs
    errors = moved[rows, leading[:, :1]] - moved[rows, leading[:, 1:]]
    remaining = margins[None] + errors[:, None]  # [errors of image, margins of image, rivals]
    change = remaining.min(2) < 0
    costs = np.where(change, worth[np.arange(len(worth)), remaining.argmin(2)], 0.0)
    log_p, log_q = log_softmax(theirs, axis=1), log_softmax(ours, axis=1)
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    return Drop(
        points=100 * float(costs.mean()),
        upper=100 * upper_bound(costs),
        changes=100 * float(change.mean()),
        changes_upper=100 * upper_bound(change.astype(np.float64)),
        agreement=float((ours.argmax(1) == theirs.argmax(1)).mean()),
        cosine=float(((ours * theirs).sum(1) / norms).mean()),
        kl=float((np.exp(log_p) * (log_p - log_q)).sum(1).mean()),
        images=len(theirs),
    )


def upper_bound(pairs: npt.NDArray[np.float64]) -> float:
    """The mean of [errors of image, margins of image] with 95 % confidence: images of both sorts were drawn."""
    spread = np.hypot(
        pairs.mean(1).std() / np.sqrt(len(pairs)), pairs.mean(0).std() / np.sqrt(pairs.shape[1])
    )
    return float(pairs.mean() + CONFIDENCE * spread)


def leads(outputs: npt.NDArray[np.float64]) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    """How far the predicted class leads its rivals [n, rivals], in outputs and probability, and which they are."""
    leading, rows = np.argsort(-outputs, axis=1)[:, : RIVALS + 1], np.arange(len(outputs))[:, None]
    found = outputs[rows, leading], np.exp(log_softmax(outputs, axis=1))[rows, leading]
    lead, worth = (values[:, :1] - values[:, 1:] for values in found)
    return lead, worth, leading


@dataclass(frozen=True)
class CandidatePlan:
    """One candidate plan: its 16-bit tensors, the unit added last, extra cycles, estimated KL."""

    added: str
    words: str
    sixteen_bit: tuple[str, ...]
    cycles: float
    compiler_cycles: float
    estimated_kl: float


def candidate_plans(units: list[Unit], errors: Errors, costs: Costs) -> list[CandidatePlan]:
    """Plans from everything int8 upwards, each adding the unit that removes most error per cycle."""
    kept: frozenset[str] = frozenset()
    error, cost = errors(kept), costs(kept)
    candidates = [CandidatePlan("", "everything int8", (), 0.0, 0.0, error)]
    while True:
        best: tuple[float, Unit, float, float] | None = None
        for unit in units:
            wider = kept | unit.tensors
            if wider == kept:
                continue
            gain, price = error - errors(wider), max(costs(wider) - cost, 1.0)
            if gain > 0 and (best is None or gain / price > best[0]):
                best = (gain / price, unit, errors(wider), costs(wider))
        if best is None:
            return candidates
        _, unit, error, cost = best
        kept |= unit.tensors
        tensors = tuple(sorted(kept))
        candidates.append(CandidatePlan(unit.name, unit.words, tensors, cost, costs.compiler(kept), error))


@dataclass(frozen=True)
class SearchResult:
    """The outcome: the plan's candidate, what the simulator measured on it, whether the target was met, why."""

    candidate: CandidatePlan
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

    def measure(
        self,
        how: str,
        candidate: CandidatePlan,
        reference: Outputs,
        run: Simulate,
        more: Outputs | None = None,
    ) -> Drop:
        """Measure a plan, or recall it."""
        name = f"{how}: {' '.join(candidate.sixteen_bit)}"
        if name not in self.done:
            drop = drop_of(run(candidate.sixteen_bit), reference, more)
            self.done[name] = {
                "how": how,
                "added": candidate.added,
                "cycles": candidate.cycles,
                **asdict(drop),
            }
            if self.path is not None:
                state = json.dumps({"key": self.key, "trials": self.done}, indent=1)
                write_atomically(self.path, state)
        fields = Drop.__dataclass_fields__
        return Drop(**{field: self.done[name][field] for field in fields})


def search(
    candidates: list[CandidatePlan],
    *,
    fake: Simulate,
    simulate: Simulate,
    references: Mapping[str, Outputs],
    max_drop: float,
    minutes: float,
    state: Path | None = None,
    key: str = "",
    advice: str = "--precision float",
    progress: Progress = QUIET,
) -> SearchResult:
    """The first candidate whose simulation keeps the predictions within `max_drop` points.

    `fake` and `simulate` give outputs of a plan by fake quantization and by the vendor's simulator, on images
    whose float outputs are `references["fake"]` and `references["simulate"]`; those under "more", if any, lend
    their margins. Stops after `minutes` with the best plan so far. Nothing is drawn at random: the same inputs
    give the same plan. If the compiler crashes on a plan, cheaper plans
    are not tried, with a warning. `advice` is given where no plan meets the target.
    """
    trials, deadline = Trials(state, key), time.monotonic() + 60 * minutes
    more = references.get("more")
    candidate = first_met(
        candidates,
        lambda candidate: trials.measure("fake", candidate, references["fake"], fake, more),
        max_drop,
        deadline,
    )
    measured: dict[int, Drop] = {}
    failed, met = -1, len(candidates)
    while True:
        progress.advance(
            len(measured),
            0,
            so_far(candidates[candidate], [(candidates[n], drop) for n, drop in measured.items()]),
        )
        following: int | None
        try:
            measured[candidate] = trials.measure(
                "simulate", candidates[candidate], references["simulate"], simulate, more
            )
        except ToolchainError as error:
            if candidate == 0:
                raise
            progress.warn(f"no plan with {candidates[candidate].words} in 16 bits: {error}")
            if met < len(candidates):
                failed = candidate
                following = next_candidate(failed, met, len(candidates), 1.0, len(measured))
            else:
                candidates, met = candidates[:candidate], candidate
                following = (failed + candidate) // 2 if candidate - failed > 1 else None
        else:
            shortfall = measured[candidate].shortfall(max_drop)
            if measured[candidate].meets(max_drop):
                met = candidate
            else:
                failed = max(failed, candidate)
            following = next_candidate(failed, met, len(candidates), shortfall, len(measured))
        finished = following is None or following in measured
        if following is None or finished or (measured and time.monotonic() > deadline):
            break
        candidate = following
    best = (
        met
        if met < len(candidates)
        else min(measured, key=lambda number: measured[number].shortfall(max_drop))
    )
    return SearchResult(
        candidates[best],
        measured[best],
        met < len(candidates),
        sentence(candidates[best], measured[best], met < len(candidates), max_drop, finished, advice),
        tuple(trials.done.values()),
    )


def so_far(candidate: CandidatePlan, measured: list[tuple[CandidatePlan, Drop]]) -> str:
    """What is tried and the best there was, for a line of progress."""
    trying = f"simulating {len(candidate.sixteen_bit)} tensors in 16 bits"
    if not measured:
        return trying
    best, drop = min(measured, key=lambda pair: pair[1].least)
    return f"{trying}; best so far: {len(best.sixteen_bit)} keep within {drop.least:.2f} points"


def first_met(
    candidates: list[CandidatePlan],
    measure: Callable[[CandidatePlan], Drop],
    max_drop: float,
    deadline: float,
) -> int:
    """The lowest candidate that meets the target by estimate, by halving; the top one if none does."""
    low, high = 0, len(candidates) - 1
    while low < high and time.monotonic() < deadline:
        middle = (low + high) // 2 if low else min(high, 0 if high == 0 else (high // 4))
        if measure(candidates[middle]).meets(max_drop):
            high = middle
        else:
            low = middle + 1
    return high


def next_candidate(failed: int, met: int, count: int, shortfall: float, measured: int) -> int | None:
    """Where to go on between the highest candidate that failed and the lowest that met; None when they touch.

    Estimates come close, so steps back from a candidate that met start small and double.
    """
    if met == count:
        climbed = failed + max(1, round((count - failed) * min(0.5, 0.1 * shortfall)))
        return min(climbed, count - 1) if failed < count - 1 else None
    if met - failed <= 1:
        return None
    step: int = FIRST_STEP << (measured - 1)
    return max((failed + met) // 2, met - step)


def sentence(
    candidate: CandidatePlan, drop: Drop, met: bool, max_drop: float, exhausted: bool, advice: str
) -> str:
    """The outcome in plain words, and what would be needed where the target was missed."""
    outcome = (
        f"{drop.points:.2f} points expected drop (95 % below {drop.upper:.2f}) and {drop.changes:.1f} % changed "
        f"predictions by {drop.images} calibration images, {len(candidate.sixteen_bit)} tensors in 16 bits"
    )
    if met and not exhausted:
        outcome += "; cheaper plans were not tried for lack of time: allow more --search-minutes"
    if met:
        return f"target of {max_drop:g} points met: {outcome}"
    need = f"--max-drop {drop.least:.2f} is what this plan keeps"
    if not exhausted:
        missed = f"target of {max_drop:g} points not met in the time given"
        return f"{missed}: {outcome}. Allow more --search-minutes; {need}"
    saved = f"; --search-minutes 0 leaves everything int8, about {candidate.cycles / 1e6:.1f} million cycles fewer"
    return (
        f"target of {max_drop:g} points not met by any plan: {outcome}. Use {advice}, or more calibration "
        f"images to tell smaller drops apart; {need}{saved if candidate.sixteen_bit else ''}"
    )
