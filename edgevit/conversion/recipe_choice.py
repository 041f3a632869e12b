"""Which of a backend's ways to quantize an artefact is made with: measured, or the user's own, measured too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgevit.backends.protocol import Backend
from edgevit.backends.registry import backend_of
from edgevit.backends.trials import Candidate, Choice, TrialRequest, best_of, record
from edgevit.files import write_atomically
from edgevit.images.preprocessing import Preprocessing
from edgevit.metrics.acceptance import Acceptance
from edgevit.outputs.output import Outputs
from edgevit.progress import Progress
from edgevit.quantize.plan import PrecisionPlan
from edgevit.targets.profiles import Board, Recipe

# Ranges are fitted on the first images, in trials on few of them: the artefact's own are fitted on all.
FITTED_SHARE, MAX_FITTED = 4, 32
MAX_HELD_OUT = {"cpu": 192, "npu": 96}  # a CPU takes most of a second for a 16-bit model
MIN_SPLIT = 8


@dataclass(frozen=True)
class Choosing:
    """What a choice is made from. `fixed`: the way the user's recipe or plan names, which is only measured."""

    source_model: Path  # the float graph, or the vendor's float file
    board: Board
    delegate: str
    preprocessing: Preprocessing
    calibration: Path  # pixels uint8 [n, height, width, channels]
    plan: PrecisionPlan
    fixed: str | None
    acceptance: Acceptance
    outputs: Outputs
    labels: tuple[int, ...] | None = None  # of the calibration images, where the user set a limit to points


def delegate_of(board: Board, wanted: str) -> str:
    """The delegate for one board of several: what the user wants where its backend knows it, else the CPU."""
    quantizers = backend_of(board).quantizers
    return wanted if quantizers and wanted in quantizers.delegates else "cpu"


def fixed_recipe(backend: Backend, given: PrecisionPlan | None, recipe: Recipe) -> str | None:
    """The way to quantize that a user's plan names, or else the recipe; None: it is to be measured."""
    named: str | None = backend.options_of((given or recipe).options).recipe
    return named


def choose_plan(choosing: Choosing, folder: Path, progress: Progress) -> dict[str, Any]:
    """Measure the candidates, write plan.toml into `folder`, return the record of the choice."""
    backend = backend_of(choosing.board)
    quantizers = backend.quantizers
    assert quantizers is not None  # only then is there a choice
    offered: Sequence[Candidate] = quantizers.candidates(choosing.delegate)
    if choosing.fixed is not None:
        offered = [Candidate(choosing.fixed, "asked for")]
    pixels = np.load(choosing.calibration, mmap_mode="r", allow_pickle=False)
    fitted, held_out = split(len(pixels), MAX_HELD_OUT[choosing.delegate])
    work = folder / "trials"
    work.mkdir()
    np.save(work / "fit.npy", pixels[fitted])
    np.save(work / "held-out.npy", pixels[held_out])
    request = TrialRequest(
        source_model=choosing.source_model,
        candidates=offered,
        preprocessing=choosing.preprocessing,
        fit=work / "fit.npy",
        held_out=work / "held-out.npy",
        timed=choosing.delegate == "cpu",
        out=work,
        outputs=choosing.outputs,
    )
    labels = None if choosing.labels is None else np.asarray(choosing.labels)[held_out]
    choose = partial(
        best_of,
        acceptance=choosing.acceptance,
        where=choosing.board.id,
        outputs=choosing.outputs,
        labels=labels,
    )
    trials = quantizers.measure(request, progress)
    choice = choose(trials)
    ways = {each.label: each for each in offered}
    closest = ways[choice.chosen.trial.label]
    if quantizers.sparing and choosing.fixed is None and not choice.chosen.accepted:
        spared = quantizers.sparing(request, closest, progress)
        ways |= {each.label: each for each in spared}
        if spared:  # all are timed in turns, the closest with them
            trials = quantizers.measure(replace(request, candidates=(*spared, closest)), progress)
            before = tuple(each for each in choice.evaluated if each.trial.label != closest.label)
            choice = choose(trials)
            choice = replace(choice, evaluated=before + choice.evaluated)
    clear(work)
    own = {**choosing.plan.options.get(backend.name, {}), **ways[choice.chosen.trial.label].options}
    plan = replace(choosing.plan, options={backend.name: own})
    write_atomically(folder / "plan.toml", plan.to_toml())
    if choice.warning:
        progress.warn(choice.warning)
    return choice_record(choice, choosing, len(trials.reference))


def choice_record(choice: Choice, choosing: Choosing, images: int) -> dict[str, Any]:
    """The manifest's record of the choice."""
    return {
        "tried": [record(each) for each in choice.evaluated],
        "chosen": record(choice.chosen),
        "delegate": choosing.delegate,
        "fixed": choosing.fixed is not None,
        "explanation": choice.explanation,
        "warning": choice.warning,
        "max_drop": choosing.acceptance.max_drop,
        "n": images,
    }


def split(count: int, most_held_out: int) -> tuple[slice, slice]:
    """Which images ranges are fitted on and which are held out; so few that neither could, serve as both."""
    if count < MIN_SPLIT:
        return slice(0, count), slice(0, count)
    fitted = min(MAX_FITTED, max(1, count // FITTED_SHARE))
    return slice(0, fitted), slice(fitted, min(count, fitted + most_held_out))


def clear(work: Path) -> None:
    """Drop the trials' artefacts and pixels, which the manifest does not need; the workers' logs stay."""
    for path in work.iterdir():
        if path.is_file():
            path.unlink()
