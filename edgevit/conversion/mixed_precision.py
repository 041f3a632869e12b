"""Which precision plan an artefact is made with: the user's own, what a search finds, or everything int8."""

from __future__ import annotations

import difflib
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from edgevit.backends.protocol import CompileRequest, Simulator
from edgevit.backends.registry import backend_of
from edgevit.cluster.tasks import Workers
from edgevit.conversion.reference import PARITY_IMAGES
from edgevit.conversion.search_trials import Ahead, simulator_of
from edgevit.errors import EdgevitError, InputError
from edgevit.files import write_atomically
from edgevit.metrics.acceptance import Acceptance
from edgevit.models import LoadedModel
from edgevit.outputs.output import Outputs
from edgevit.placement.estimate import cost_of, estimate
from edgevit.progress import Progress
from edgevit.quantize.graph import find as graph_plans
from edgevit.quantize.graph.on_npu import kept_on_npu
from edgevit.quantize.graph.structure import leaving
from edgevit.quantize.mixed_precision import Judging, PlannedPrecision, find_plan
from edgevit.quantize.plan import PrecisionPlan
from edgevit.quantize.prepare import restored
from edgevit.quantize.search import SearchResult
from edgevit.quantize.tensor_names import OUTPUT_TAP, kind_of
from edgevit.rewrites.equivalence import apply_rewrites
from edgevit.targets.precisions import FLOAT
from edgevit.targets.profiles import Board

EVALUATED_IMAGES = 128
MIN_EVALUATED = 16
DESTROYED = 0.5  # agreement below which a search says what does it
NAMED = 2


def searchable(board: Board) -> bool:
    """Whether a board has a 16-bit type to move tensors to, and its backend a simulator to evaluate by."""
    return (
        board.npu is not None
        and board.npu.sixteen_bit is not None
        and backend_of(board).simulations is not None
    )


def merged(own: PrecisionPlan, given: PrecisionPlan, board: Board) -> PrecisionPlan:
    """The plan that edgevit made with a user's 16-bit tensors, ranges and options in it.

    Raises InputError for tensors that the model or the backend has not.
    """
    named = [*given.sixteen_bit, *given.ranges]
    what = f"cannot realise --plan for {board.id}"
    if named and not backend_of(board).takes_ranges:
        why = f"its backend, {board.backend}, takes no ranges or 16-bit tensors"
        raise InputError(what, why, "Remove sixteen_bit and [ranges] from the plan, or choose another target")
    npu = board.npu
    if given.sixteen_bit and (npu is None or npu.sixteen_bit is None):
        raise InputError(what, "it has no 16-bit type", "Remove sixteen_bit from the plan")
    if named and not own.ranges:
        why = "this model was not conditioned, so its tensors have no names"
        raise InputError(what, why, "Use --recipe conditioned and a plain ViT")
    for name in named:
        if name not in own.ranges:
            near = difflib.get_close_matches(name, own.ranges, n=1)
            fix = f"Rename it to {near[0]}" if near else "See the .plan.toml of a run for the names"
            raise InputError(what, f"the model has no tensor {name}", fix)
    for name in given.sixteen_bit:
        if npu is not None and kind_of(name) in npu.never_sixteen_bit:
            why = f"its compiler can't make {name} in {npu.sixteen_bit}"
            raise InputError(what, why, f"Remove {name} from sixteen_bit")
    name = board.backend
    return replace(
        given,
        options={name: {**own.options.get(name, {}), **given.options.get(name, {})}},
        ranges={**own.ranges, **given.ranges},
        calibrated_ranges=own.calibrated_ranges,
    )


def with_whole_outputs(plan: PrecisionPlan, outputs: Outputs, board: Board) -> PrecisionPlan:
    """The plan of a conditioned model that leaves its output in 16 bits, where eight would spoil it."""
    able = board.npu is not None and board.npu.sixteen_bit is not None
    if not (able and outputs.whole and OUTPUT_TAP in plan.ranges) or OUTPUT_TAP in plan.sixteen_bit:
        return plan
    return replace(plan, sixteen_bit=(*plan.sixteen_bit, OUTPUT_TAP))


@dataclass(frozen=True)
class Search:
    """What a search for 16-bit tensors is given."""

    model: LoadedModel
    onnx: Path
    calibration: Path  # pixels uint8 [n, height, width, channels]
    board: Board
    acceptance: Acceptance
    minutes: float
    state: Path  # a stopped search goes on from here
    plan: PrecisionPlan  # everything int8
    seed: int
    labels: tuple[int, ...] | None = None  # of the calibration images, where the user set a limit to points
    workers: Workers | None = None  # who does the trials


@dataclass(frozen=True)
class Conditioned:
    """A plain ViT that was made ready for int8 before its export."""

    rewrites: Sequence[str]
    weights: Path
    effects: dict[str, float]


def search_plan(
    search: Search, conditioned: Conditioned | None, folder: Path, progress: Progress
) -> dict[str, Any]:
    """Find the plan, write plan.toml into `folder`, return the record of the search.

    Of a conditioned plain ViT by its own tensors, of any other model by those of its graph.
    """
    begun = time.monotonic()
    pixels = np.load(search.calibration, mmap_mode="r", allow_pickle=False)
    evaluated = evaluated_images(len(pixels))
    np.save(folder / "evaluated.npy", pixels[-evaluated:])
    images = torch.from_numpy(search.model.preprocessing.normalise(np.asarray(pixels)))
    try:
        if conditioned is None:
            planned, told = by_graph(search, images, evaluated, folder, begun, progress)
        else:
            planned, told = by_module(search, conditioned, images, evaluated, folder, begun, progress), {}
    except EdgevitError as error:
        if conditioned is not None:
            raise
        why = f"int8 without a search: {error}"  # then it is the vendor's own
        progress.warn(why)
        return {"explanation": why, "met": False, "max_drop": search.acceptance.max_drop, "n": evaluated}
    finally:
        (folder / "evaluated.npy").unlink(missing_ok=True)
    write_atomically(folder / "plan.toml", planned.plan.to_toml())
    search.state.unlink(missing_ok=True)
    found = planned.found
    return {
        "tried": list(found.trials),
        "met": found.met,
        "explanation": found.explanation + brought_back(told) + blamed(found, told),
        "max_drop": search.acceptance.max_drop,
        "n": evaluated,
        "chosen": asdict(found.candidate) | {"measured": asdict(found.measured)},
        **told,
    }


def brought_back(told: Mapping[str, Any]) -> str:
    """How many tensors have 16 bits only because their operation has no int8 kernel."""
    count = len(told.get("for_the_npu", ()))
    return f"; {count} more in 16 bits, which keep their operations on the NPU" if count else ""


def blamed(found: SearchResult, told: Mapping[str, Any]) -> str:
    """Which tensors int8 destroys, where even the best plan loses most predictions."""
    effects = told.get("effects", {})
    worst = sorted(effects, key=lambda name: -effects[name])[:NAMED]
    if found.measured.agreement >= DESTROYED or not worst:
        return ""
    return f"; rounding {' and '.join(worst)} to int8 costs most"


def request_of(search: Search, plan: PrecisionPlan, folder: Path) -> CompileRequest:
    """What the simulator is asked for."""
    return CompileRequest(
        onnx=search.onnx,
        vendor_float=None,
        plan=plan,
        board=search.board,
        preprocessing=search.model.preprocessing,
        calibration=search.calibration,
        evaluate=folder / "evaluated.npy",
        out=folder,
    )


def judging_of(
    search: Search, simulator: Simulator, ahead: Ahead, evaluated: int, begun: float, progress: Progress
) -> Judging:
    """How the plans of a search that began at `begun` are judged."""
    return Judging(
        outputs=search.model.outputs,
        evaluated=evaluated,
        simulate=simulator.outputs,
        ahead=ahead,
        priced=partial(priced, simulator, search.board),
        acceptance=search.acceptance,
        minutes=search.minutes - (time.monotonic() - begun) / 60,
        labels=None if search.labels is None else np.asarray(search.labels),
        state=search.state,
        advice=advice_of(search.board),
        progress=progress,
    )


def priced(simulator: Simulator, board: Board, plan: PrecisionPlan) -> dict[str, float]:
    """What a simulated plan costs: its compiler's cycles, the estimate's milliseconds; as far as they are known."""
    if simulator.placed is None:
        return {}
    placement = simulator.placed(plan)
    try:
        return {"total_cycles": placement.cycles, "latency_ms": estimate(placement, board).latency_ms}
    except InputError:  # a profile without clocks
        return {"total_cycles": placement.cycles}


def advice_of(board: Board) -> str:
    """What to use where no plan meets the target."""
    return "--precision float" if FLOAT in board.precisions else "a platform that computes in float"


def by_module(
    search: Search,
    conditioned: Conditioned,
    images: torch.Tensor,
    evaluated: int,
    folder: Path,
    begun: float,
    progress: Progress,
) -> PlannedPrecision:
    """The plan of a conditioned plain ViT."""
    board, backend = search.board, backend_of(search.board)
    assert board.npu is not None  # searchable() said so
    rewritten, _ = apply_rewrites(
        search.model.module, conditioned.rewrites, images[:PARITY_IMAGES], npu=board.npu
    )
    with simulator_of(request_of(search, search.plan, folder), search.workers, progress) as (
        simulator,
        ahead,
    ):
        return find_plan(
            restored(rewritten, conditioned.weights),
            search.plan,
            conditioned.effects,
            images,
            board.npu,
            backend.fusion,
            judging_of(search, simulator, ahead, evaluated, begun, progress),
        )


def by_graph(
    search: Search,
    images: torch.Tensor,
    evaluated: int,
    folder: Path,
    begun: float,
    progress: Progress,
) -> tuple[PlannedPrecision, dict[str, Any]]:
    """The plan of any graph, and what was found on the way: ranges tried, the tensors that int8 costs most."""
    board = search.board
    assert board.npu is not None  # searchable() said so
    observed = graph_plans.observe(onnx.load(search.onnx), images, progress)
    plan = replace(observed.plan, options=search.plan.options)
    with simulator_of(request_of(search, plan, folder), search.workers, progress) as (simulator, ahead):
        if search.model.outputs.whole:
            plan = replace(plan, sixteen_bit=leaving(observed.proto, simulator.stored))
        prepared = graph_plans.prepare(
            replace(observed, plan=plan),
            simulator.stored,
            images,
            seed=search.seed,
            outputs=search.model.outputs,
            progress=progress,
        )
        planned = graph_plans.find_plan(
            prepared,
            observed,
            images,
            board.npu,
            judging_of(search, simulator, ahead, evaluated, begun, progress),
        )
        plan = planned.plan
        if simulator.placed is not None:
            plan = kept_on_npu(
                plan,
                observed.proto,
                simulator.stored,
                simulator.placed,
                lambda placement: cost_of(placement, board),
            )
    back = [name for name in plan.sixteen_bit if name not in planned.plan.sixteen_bit]
    planned = replace(planned, plan=plan)
    told = {
        "ranges": prepared.ranges,
        "effects": graph_plans.rounding_effects(prepared),
    }
    return planned, told | ({"for_the_npu": back} if back else {})


def evaluated_images(count: int) -> int:
    """How many calibration images, from the last, evaluate plans: those that fewest ranges were fitted on."""
    return max(min(EVALUATED_IMAGES, count // 2), min(MIN_EVALUATED, count))
