"""The fewest cycles that keep a model's predictions: a plan found with estimates, proved by the simulator.

Fake quantization finds the first of the candidate plans that meets the target, the vendor's simulator has the last
word: where it disagrees, the search climbs on; where there is room, it steps back down.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from edgevit.errors import ToolchainError
from edgevit.files import write_atomically
from edgevit.metrics.acceptance import Acceptance, provable_drop
from edgevit.metrics.predicted_loss import PredictedLoss
from edgevit.progress import QUIET, Progress
from edgevit.quantize.candidates import CandidatePlan

Measure = Callable[[tuple[str, ...]], PredictedLoss]
Priced = Callable[[tuple[str, ...]], Mapping[str, float]]

FIRST_STEP = 4  # candidates
FORESEEN = 3  # steps, each with two outcomes
NEGLIGIBLE = 0.1  # of what a plan costs over everything int8


@dataclass(frozen=True)
class SearchResult:
    """The outcome: the plan's candidate, what the simulator measured on it, whether the target was met, why."""

    candidate: CandidatePlan
    measured: PredictedLoss
    met: bool
    explanation: str
    trials: tuple[dict[str, Any], ...]


def no_price(_: object) -> Mapping[str, float]:
    """Where nobody tells what a plan costs."""
    return {}


def nobody_ahead(_: object) -> None:
    """Where nobody simulates beforehand."""


class Trials:
    """What was measured on which plan; on disk, so that a search that was stopped goes on where it was."""

    def __init__(self, path: Path | None, key: str) -> None:
        self.path, self.key = path, key
        self.done: dict[str, dict[str, Any]] = {}
        if path is not None and path.is_file():
            stored = json.loads(path.read_text(encoding="utf-8"))
            if stored.get("key") == key:
                self.done = stored["trials"]

    def known(self, how: str, candidate: CandidatePlan) -> bool:
        """Whether a plan was measured."""
        return name_of(how, candidate) in self.done

    def measure(
        self, how: str, candidate: CandidatePlan, run: Measure, priced: Priced = no_price
    ) -> PredictedLoss:
        """Measure a plan and note what it costs, or recall it."""
        name = name_of(how, candidate)
        if name not in self.done:
            shown = {"how": how, "added": candidate.added, "cycles": candidate.cycles}
            found = run(candidate.sixteen_bit).to_json()
            self.done[name] = {**shown, **found, **priced(candidate.sixteen_bit)}
            if self.path is not None:
                state = json.dumps({"key": self.key, "trials": self.done}, indent=1)
                write_atomically(self.path, state)
        return PredictedLoss(**{each.name: self.done[name][each.name] for each in fields(PredictedLoss)})


def name_of(how: str, candidate: CandidatePlan) -> str:
    """What a measurement is kept under."""
    return f"{how}: {' '.join(candidate.sixteen_bit)}"


@dataclass(frozen=True)
class Bracket:
    """Where a search stands: candidates up to `failed` miss the target, `met` is the lowest that met it.

    `count` candidates can be built; `met` is `count` while none has met it.
    """

    failed: int
    met: int
    count: int

    def after(self, candidate: int, met: bool) -> Bracket:
        """What is known once a candidate was measured."""
        return replace(self, met=candidate) if met else replace(self, failed=max(self.failed, candidate))

    def without(self, candidate: int) -> Bracket:
        """What is left once the compiler crashed on a candidate."""
        if self.met < self.count:
            return replace(self, failed=candidate)
        return replace(self, met=candidate, count=candidate)

    def following(self, shortfall: float, measured: int) -> int | None:
        """Where to go on between the highest that failed and the lowest that met; None when they touch.

        Estimates come close, so steps back from a candidate that met start small and double.
        """
        if self.met == self.count:
            climbed = self.failed + max(1, round((self.count - self.failed) * min(0.5, 0.1 * shortfall)))
            return min(climbed, self.count - 1) if self.failed < self.count - 1 else None
        if self.met - self.failed <= 1:
            return None
        step: int = FIRST_STEP << (measured - 1)
        return max((self.failed + self.met) // 2, self.met - step)

    def likely(self, candidate: int, measured: int) -> list[int]:
        """Where a search may go from a candidate in its next steps, the nearest first."""
        found, level = list[int](), [(self, candidate)]
        for step in range(FORESEEN):
            level = [
                (after, following)
                for bracket, number in level
                for after in (bracket.after(number, True), bracket.after(number, False))
                if (following := after.following(1.0, measured + step + 1)) is not None
            ]
            found += [number for _, number in level]
        return [number for number in dict.fromkeys(found) if number != candidate]

    def middle(self) -> int | None:
        """Half-way up to the plans that can't be built."""
        return (self.failed + self.count) // 2 if self.count - self.failed > 1 else None


def search(
    candidates: list[CandidatePlan],
    *,
    estimate: Measure,
    simulate: Measure,
    priced: Priced = no_price,
    ahead: Callable[[list[tuple[str, ...]]], None] = nobody_ahead,
    acceptance: Acceptance,
    minutes: float,
    state: Path | None = None,
    key: str = "",
    advice: str = "--precision float",
    progress: Progress = QUIET,
) -> SearchResult:
    """The first candidate whose simulation keeps the predictions within `acceptance`.

    `estimate` and `simulate` measure a plan by fake quantization and by the vendor's simulator, `priced` tells what
    one that was simulated costs, for the record; `ahead` is told what is simulated next, and what may be after it,
    for whoever can do that meanwhile. Stops after
    `minutes` with the best plan so far; a search with the same `key` goes on from the file `state`. Nothing is
    drawn at random: the same inputs give the same plan. If the compiler crashes on a plan, dearer plans are not
    tried, with a warning. `advice` is given where no plan meets the target. Raises ToolchainError if it crashes
    on the cheapest.
    """
    trials, deadline = Trials(state, key), time.monotonic() + 60 * minutes
    first = first_met(
        candidates, lambda candidate: acceptance.keeps(trials.measure("fake", candidate, estimate)), deadline
    )
    measured: dict[int, PredictedLoss] = {}
    bracket, following = Bracket(-1, len(candidates), len(candidates)), first
    while True:
        number = following
        progress.advance(
            len(measured),
            0,
            so_far(candidates[number], [(candidates[n], loss) for n, loss in measured.items()]),
        )
        coming = [candidates[each] for each in (number, *bracket.likely(number, len(measured)))]
        ahead([each.sixteen_bit for each in coming if not trials.known("simulate", each)])
        try:
            measured[number] = trials.measure("simulate", candidates[number], simulate, priced)
        except ToolchainError as error:
            if number == 0:
                raise
            progress.warn(f"no plan with {candidates[number].description} in 16 bits: {error}")
            some_met = bracket.met < bracket.count
            bracket = bracket.without(number)
            chosen = bracket.following(1.0, len(measured)) if some_met else bracket.middle()
        else:
            bracket = bracket.after(number, acceptance.keeps(measured[number]))
            chosen = bracket.following(acceptance.shortfall(measured[number]), len(measured))
        exhausted = chosen is None or chosen in measured or too_close(candidates, bracket)
        if chosen is None or exhausted or (measured and time.monotonic() > deadline):
            break
        following = chosen
    met = bracket.met < bracket.count
    best = bracket.met if met else min(measured, key=lambda each: provable_drop(measured[each]))
    explained = explain(candidates[best], measured[best], acceptance, met, exhausted, advice)
    return SearchResult(candidates[best], measured[best], met, explained, tuple(trials.done.values()))


def too_close(candidates: list[CandidatePlan], bracket: Bracket) -> bool:
    """Whether what lies between the highest that failed and the lowest that met is not worth a simulation."""
    if bracket.failed < 0 or bracket.met == bracket.count:
        return False
    failed, met = candidates[bracket.failed].cycles, candidates[bracket.met].cycles
    return met - failed <= NEGLIGIBLE * met


def so_far(candidate: CandidatePlan, measured: list[tuple[CandidatePlan, PredictedLoss]]) -> str:
    """What is tried and the best there was, for a line of progress."""
    trying = f"simulating {len(candidate.sixteen_bit)} tensors in 16 bits"
    if not measured:
        return trying
    best, loss = min(measured, key=lambda pair: provable_drop(pair[1]))
    return f"{trying}; best so far: {len(best.sixteen_bit)} keep within {provable_drop(loss):.2f} points"


def first_met(
    candidates: list[CandidatePlan], meets: Callable[[CandidatePlan], bool], deadline: float
) -> int:
    """The lowest candidate that meets the target by estimate, by halving; the top one if none does."""
    low, high = 0, len(candidates) - 1
    while low < high and time.monotonic() < deadline:
        middle = (low + high) // 2 if low else min(high, 0 if high == 0 else (high // 4))
        if meets(candidates[middle]):
            high = middle
        else:
            low = middle + 1
    return high


def explain(
    candidate: CandidatePlan,
    loss: PredictedLoss,
    acceptance: Acceptance,
    met: bool,
    exhausted: bool,
    advice: str,
) -> str:
    """The outcome in plain words, and what would be needed where the target was missed."""
    outcome = f"{loss.describe()}, {len(candidate.sixteen_bit)} tensors in 16 bits"
    limit = f"target of {acceptance.max_drop:g} points"
    if met and not exhausted:
        outcome += "; cheaper plans were not tried for lack of time: allow more --search-minutes"
    if met:
        return f"{limit} met: {outcome}"
    need = f"--max-drop {provable_drop(loss):.2f} is what this plan keeps"
    if not exhausted:
        return f"{limit} not met in the time given: {outcome}. Allow more --search-minutes; {need}"
    saved = f"; --search-minutes 0 leaves everything int8, about {candidate.cycles / 1e6:.1f} million cycles fewer"
    return (
        f"{limit} not met by any plan: {outcome}. Use {advice}, or more calibration "
        f"images to tell smaller drops apart; {need}{saved if candidate.sixteen_bit else ''}"
    )
