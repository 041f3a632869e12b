"""Ways to quantize for one backend, measured side by side, and the choice between them.

A backend that quantizes in several ways offers them as candidates, the most faithful first. Each is made, run on
calibration images its ranges were not fitted on, and timed on this machine, in turns with the float artefact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgevit.errors import EdgevitError
from edgevit.images.preprocessing import Preprocessing
from edgevit.metrics.acceptance import Acceptance, provable_drop
from edgevit.progress import Progress

Rows = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

if TYPE_CHECKING:
    from edgevit.metrics.predicted_loss import PredictedLoss
    from edgevit.outputs.output import Outputs

HOST = "host CPU"
# A later candidate must be this much faster, in three of four rounds, to be taken instead of a more faithful one:
# no noise of a busy machine decides which artefact is made.
CLEARLY_FASTER = 1.05
CLEARLY_SHARE = 0.25


@dataclass(frozen=True)
class Candidate:
    """One way to quantize: what it is called, what it does, and the backend's options that say so.

    Without options of its own the label is the option `recipe`.
    """

    label: str
    description: str
    own_options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def options(self) -> dict[str, Any]:
        """The backend's options in a plan."""
        return {"recipe": self.label, **self.own_options}


@dataclass(frozen=True)
class TrialRequest:
    """What candidates are made from and measured on.

    `source_model` is the float graph, or the vendor's float file, that artefacts are made from; `fit` and
    `held_out` are pixels uint8 [n, height, width, channels] .npy, to fit static ranges on and to compare with
    float on. `timed` asks for latency too. `out` is a folder for what is made; none of it is kept. `outputs`
    say what the model gives, class scores where they are None.
    """

    source_model: Path
    candidates: Sequence[Candidate]
    preprocessing: Preprocessing
    fit: Path
    held_out: Path
    timed: bool
    out: Path
    outputs: Outputs | None = None


@dataclass(frozen=True)
class Trial:
    """One candidate measured. `outputs` [n, classes] on the images to judge by, or `failure` in the vendor's words.

    `latencies_ms` are one inference on one thread each, in the same rounds as the float artefact's.
    """

    label: str
    outputs: Rows | None
    latencies_ms: tuple[float, ...] = ()
    failure: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Trials:
    """Every candidate in the order offered, and the float artefact they are compared with."""

    reference: Rows
    float_ms: tuple[float, ...]
    tried: tuple[Trial, ...]


@dataclass(frozen=True)
class Quantizers:
    """Ways to quantize for one backend. The name of a way is the backend's option `recipe`.

    `delegates` are what may run its artefacts, "cpu" among them. `sparing` makes candidates of one that loses too
    much: the same, but for the layers that cost it most.
    """

    delegates: tuple[str, ...]
    candidates: Callable[[str], tuple[Candidate, ...]]
    measure: Callable[[TrialRequest, Progress], Trials]
    sparing: Callable[[TrialRequest, Candidate, Progress], tuple[Candidate, ...]] | None = None


@dataclass(frozen=True)
class Evaluated:
    """A trial against the target; None where the candidate could not be made or was not timed.

    `speedups` are float time over the candidate's, one per round.
    """

    trial: Trial
    loss: PredictedLoss | None
    speedups: tuple[float, ...]
    accepted: bool

    @property
    def speedup(self) -> float | None:
        """The median of the rounds."""
        return median(self.speedups) if self.speedups else None

    def clearly_faster(self, other: Evaluated) -> bool:
        """Whether all but the luckiest quarter of the rounds say so, by a margin."""
        if not self.speedups or not other.speedups:
            return False
        ratios = np.asarray(self.speedups) / np.asarray(other.speedups)
        return bool(np.quantile(ratios, CLEARLY_SHARE) > CLEARLY_FASTER)


@dataclass(frozen=True)
class Choice:
    """The candidate taken and why; `warning` is what the user must not overlook."""

    chosen: Evaluated
    evaluated: tuple[Evaluated, ...]
    explanation: str
    warning: str | None


def best_of(
    trials: Trials,
    acceptance: Acceptance,
    *,
    where: str,
    outputs: Outputs | None = None,
    labels: Labels | None = None,
) -> Choice:
    """The fastest candidate that keeps within `acceptance`; where none does, the most faithful.

    Candidates come in the order of preference: a later one is taken only where it is clearly faster. `where` is
    the target's name, for the words; `outputs` what the model gives (None: class scores); `labels` [n] those of the
    images, if known. Raises EdgevitError where no
    candidate could be made.
    """
    from edgevit.outputs.output import CLASS_SCORES  # brings scipy

    means = outputs or CLASS_SCORES
    scale = None if labels is None else means.trusted_scale(trials.reference, labels)
    evaluated = tuple(evaluate(trial, trials, acceptance, means, scale) for trial in trials.tried)
    made = [each for each in evaluated if each.loss is not None]
    if not made:
        raise EdgevitError(
            f"cannot quantize for {where}",
            f"every way failed, the last one with: {evaluated[-1].trial.failure}",
            "Use --precision float",
        )
    accepted = [each for each in made if each.accepted]
    if accepted:
        best = accepted[0]
        for each in accepted[1:]:
            best = each if each.clearly_faster(best) else best
    else:
        best = min(made, key=kept_within)
    return Choice(best, evaluated, explain(best, acceptance), slower(best, where))


def evaluate(
    trial: Trial, trials: Trials, acceptance: Acceptance, outputs: Outputs, scale: float | None
) -> Evaluated:
    """One trial against the float artefact's outputs and times."""
    if trial.outputs is None:
        return Evaluated(trial, None, (), accepted=False)
    finite = bool(np.isfinite(trial.outputs).all())
    loss = outputs.predict_loss(np.nan_to_num(trial.outputs), trials.reference, scale=scale)
    pairs = zip(trials.float_ms, trial.latencies_ms, strict=True) if trial.latencies_ms else ()
    speedups = tuple(theirs / ours for theirs, ours in pairs)
    return Evaluated(trial, loss, speedups, accepted=finite and acceptance.keeps(loss))


def kept_within(evaluated: Evaluated) -> float:
    """The smallest drop, in points, that a candidate that was made can be said to keep within."""
    assert evaluated.loss is not None
    return provable_drop(evaluated.loss)


def explain(best: Evaluated, acceptance: Acceptance) -> str:
    """The outcome in plain words."""
    assert best.loss is not None
    loss, speed, limit = best.loss, best.speedup, f"{acceptance.max_drop:g} points"
    pace = "not timed: this machine is not the target" if speed is None else pace_of(speed)
    measured = f"{loss.describe()}; {pace}"
    if best.accepted:
        return f"{best.trial.label} keeps within {limit}: {measured}"
    return (
        f"no way to quantize keeps within {limit}; {best.trial.label} is the closest: {measured}. "
        "Use --precision float, or accept a larger --max-drop"
    )


def pace_of(speed: float) -> str:
    """A speed against float in words, shouted where it is a loss."""
    if speed < 1:
        return f"{1 / speed:.2f} times SLOWER THAN FLOAT on this machine, 1 thread ({HOST})"
    return f"{speed:.2f} times as fast as float on this machine, 1 thread ({HOST})"


def slower(best: Evaluated, where: str) -> str | None:
    """The warning due where quantizing costs time."""
    if best.speedup is None or best.speedup >= 1:
        return None
    return (
        f"{where}: THE QUANTIZED MODEL IS SLOWER THAN FLOAT: {1 / best.speedup:.2f} times the latency "
        f"({HOST}, 1 thread). Use --precision float unless you need the smaller file"
    )


def record(evaluated: Evaluated) -> dict[str, Any]:
    """One line of the manifest's list of what was tried."""
    loss, times = evaluated.loss, evaluated.trial.latencies_ms
    return {
        "label": evaluated.trial.label,
        "latency_ms": median(times) if times else None,
        "latency_ratio": evaluated.speedup,
        **(loss.to_json() if loss else {}),
        "how": HOST,
        "accepted": evaluated.accepted,
        "failure": evaluated.trial.failure,
        **evaluated.trial.details,
    }
