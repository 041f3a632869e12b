"""Where each op of a model runs and what it costs, from the vendor's compiler, without a board."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from edgevit.conversion.artefacts import Conversion
from edgevit.errors import EdgevitError, InputError
from edgevit.placement.cpu_estimate import estimate_cpu
from edgevit.placement.estimate import estimate
from edgevit.placement.layers import Placement
from edgevit.progress import Progress
from edgevit.request.job import Job
from edgevit.run.folder import Run
from edgevit.targets.precisions import FLOAT, quantized
from edgevit.targets.profiles import Board, load_recipe

if TYPE_CHECKING:
    from edgevit.models import LoadedModel

PLAIN, EDGEVIT = "plain export", "edgevit"
COST_ONLY = "vendor-default"  # conditioning takes minutes and changes no cycles


def inspect(
    job: Job, run: Run, progress: Progress, *, before_after: bool, live: LoadedModel | None = None
) -> list[dict[str, Any]]:
    """One record for each target, precision and variant: layers and totals, or delegate partitions.

    `before_after` compiles the plain export too, for comparison.
    """
    variants = {EDGEVIT: Conversion(job, run, progress, live)}
    if before_after:
        every = tuple({name for board in job.targets for name in board.rewrites})
        plain = Conversion(replace(job, without=every), run, progress, live)
        variants = {PLAIN: plain, **variants}
    return [
        record(name, conversion, board, precision)
        for board in job.targets
        for precision in job.precisions
        for name, conversion in variants.items()
    ]


def record(variant: str, conversion: Conversion, board: Board, precision: str) -> dict[str, Any]:
    """What the compiler said of one artefact."""
    step = conversion.compiled(board, precision)
    details = step.metrics["details"]
    found = {
        "variant": variant,
        "target": board.id,
        "precision": precision,
        "bytes": step.path(step.metrics["artefact"]).stat().st_size,
        "rewrites": conversion.exported(board, precision).metrics["rewrites"],
        "reductions": [
            {"stage": each.metrics["label"], **each.metrics["details"]} for each in conversion.reductions
        ],
    }
    if "placement" in details:
        return found | npu_record(details, board)
    return found | dict(details) | {"latency": latency(details, board, conversion.multiplications, precision)}


class Priced(Conversion):
    """A conversion after so many of another's lossy steps, for its cost alone: it is run on no images."""

    calibration = validation = None

    def name_of(self, board: Board, precision: str) -> str:
        """Another name than the artefact's own step: this one answers on no images."""
        return f"cost-{board.id}-{precision}"

    def __init__(self, whole: Conversion, steps: int) -> None:
        plain = replace(whole.job, recipe=load_recipe(COST_ONLY), plan=None, images=False)
        super().__init__(plain, whole.run, whole.progress, whole.live)
        self.reductions, self.resized = whole.reductions[:steps], whole.resized if steps else None
        if steps == len(whole.reductions) and not any(map(quantized, whole.job.precisions)):
            self.probe = whole.probe  # the same graph as the artefact's: it is exported once


def costs(conversion: Conversion, steps: int) -> list[dict[str, Any]]:
    """What the model costs each NPU asked for after so many lossy steps; a build that fails is left out."""
    priced, found = Priced(conversion, steps), []
    for board in conversion.job.targets:
        precision = conversion.job.precisions[-1]
        if board.npu is None:
            continue
        try:
            each = record(EDGEVIT, priced, board, precision)
        except EdgevitError as error:
            conversion.progress.warn(f"{board.id}: no cycles after {steps} lossy steps: {error.why}")
            continue
        kept = ("target", "precision", "how", "cycles", "bytes", "latency")
        found.append({name: each[name] for name in kept})
    return found


def all_costs(conversion: Conversion) -> list[list[dict[str, Any]]]:
    """The whole model's costs, and those after each lossy step."""
    return [costs(conversion, steps) for steps in range(len(conversion.reductions) + 1)]


def latency(
    details: dict[str, Any], board: Board, multiplications: int | None = None, precision: str = FLOAT
) -> dict[str, Any] | None:
    """The estimated latency on an NPU, or on the cores that a profile describes; None without an estimate."""
    if "placement" not in details:
        if board.cpu is None or multiplications is None:
            return None
        return asdict(estimate_cpu(multiplications, board.cpu, quantized=quantized(precision)))
    try:
        return asdict(estimate(Placement.from_json(details["placement"]), board))
    except InputError:
        return None


def npu_record(details: dict[str, Any], board: Board) -> dict[str, Any]:
    """Layers, totals and the ops that left the NPU, with why."""
    placement = Placement.from_json(details["placement"])
    reasons = board.npu.cpu_ops if board.npu else {}
    return {
        "how": "vendor compiler estimate",
        "cycles": placement.cycles,
        "latency": latency(details, board),
        "traffic_kb": placement.traffic_kb,
        "internal_bytes": placement.internal_bytes,
        "weight_bytes": placement.weight_bytes,
        "cpu_ops": [vars(op) for op in placement.cpu_ops(reasons)],
        "disabled_rules": details["disabled_rules"],
        "layers": details["placement"]["layers"],
    }
