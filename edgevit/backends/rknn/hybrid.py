"""The toolkit's two hybrid steps, a plan's ranges and 16-bit tensors written into the table between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgevit.backends.protocol import CompileRequest
from edgevit.backends.rknn import table
from edgevit.backends.rknn.build import Build, build, read_log
from edgevit.files import write_atomically
from edgevit.progress import Progress
from edgevit.quantize.plan import PrecisionPlan
from edgevit.toolchains.call import run_job

FIRST = ("model", "target", "mean", "std", "algorithm", "config", "disable_rules")


@dataclass(frozen=True)
class Begun:
    """What the first step left: graph and data for the second, the table's text, its names of planned tensors.

    `scaled` are tensors of the table that are planned ones times a constant; `sixteen_bit_type` is what planned
    tensors become.
    """

    toolchain: str
    graph: Path
    data: Path
    table: str
    found: Mapping[str, list[str]]
    scaled: Mapping[str, tuple[str, float]]
    sixteen_bit_type: str | None
    disabled_rules: tuple[str, ...]

    def remove(self) -> None:
        """Delete the files of the first step."""
        for path in (self.graph, self.data):
            path.unlink(missing_ok=True)


def begin(
    request: CompileRequest, arguments: dict[str, Any], jobs: Path, progress: Progress, timeout_s: float
) -> Begun:
    """Calibrate on few images and find the planned tensors in the table.

    The images are those whose extremes `request.plan.calibrated_ranges` holds. Raises ToolchainError naming a
    tensor with a range of its own that the table has not.
    """
    few = request.out / "seen.npy"
    np.save(
        few, np.load(request.calibration, mmap_mode="r", allow_pickle=False)[: request.plan.matched_images]
    )
    first = {name: arguments[name] for name in FIRST} | {"calibration": str(few.resolve())}
    begun = build(request.board.toolchain, "hybrid_step1", first, jobs, progress, timeout_s)
    few.unlink()
    text = Path(begun.result["table"]).read_text(encoding="utf-8")
    seen, alone = request.plan.calibrated_ranges, request.plan.lenient
    entries = table.read_table(text)
    found = table.match(entries, seen, by_range_alone=alone)
    if not request.plan.lenient:
        table.require(found, request.plan.ranges)
    return Begun(
        toolchain=request.board.toolchain,
        graph=Path(begun.result["graph"]),
        data=Path(begun.result["data"]),
        table=text,
        found=found,
        scaled=table.multiples(entries, seen, found) if alone else {},
        sixteen_bit_type=request.board.npu.sixteen_bit if request.board.npu else None,
        disabled_rules=begun.disabled_rules,
    )


def finish(
    begun: Begun,
    plan: PrecisionPlan,
    arguments: dict[str, Any],
    job: Path,
    progress: Progress,
    timeout_s: float,
) -> Build:
    """Compile with a plan, and simulate where `arguments` say on what. May be called again with another plan.

    Raises ToolchainError naming a 16-bit tensor that the table has not.
    """
    path = begun.graph.with_name(f"{job.name}.quantization.cfg")
    kept, wide = plan.sixteen_bit, begun.sixteen_bit_type
    edited = table.edit(begun.table, begun.found, plan.ranges, kept, wide, begun.scaled)
    write_atomically(path, edited)
    second = {"graph": str(begun.graph), "data": str(begun.data), "table": str(path)}
    second |= {name: arguments[name] for name in ("artefact", "evaluate", "outputs")}
    result = run_job(begun.toolchain, "hybrid_step2", second, job, progress=progress, timeout_s=timeout_s)
    return Build(result, read_log(job), begun.disabled_rules)
