"""Rockchip NPUs through rknn-toolkit2: build, read the compiler's layer table, simulate.

A fusion rule of the toolkit that dies on a model is switched off and the build tried again, each time in a
fresh process, until it builds or dies of something else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgevit.backends import rknn_table
from edgevit.backends.protocol import CompileRequest, CompileResult, Handover, time_limit_s
from edgevit.errors import InputError, ToolchainError
from edgevit.files import write_atomically
from edgevit.placement.rknn_log import parse_log
from edgevit.progress import Progress
from edgevit.quantize.plan import SEEN_IMAGES
from edgevit.toolchains import environment
from edgevit.toolchains.call import run_job

HANDOVER: Handover = "onnx"
TAKES_RANGES = True
TOOLCHAIN = "rknn"
HOW = "vendor simulator"


COLOUR = re.compile(r"\x1b\[[0-9;]*m")
SUGGESTION = re.compile(r"disable_rules=\[([^\]]*)\]")
WARNING = re.compile(r"[WE] (?:RKNN: \[[0-9:.]+\] ?)?(.*)")
# Printed for every vision transformer, with no effect on the result.
HARMLESS = re.compile(
    r"need parameter qtype|is already in IndependentMap|Unkown op target: 0|TRANSPOSE: mismatch input dims"
    r"|temperate env|only support mini rknn model|default (?:in|out)put dtype of|^build: =+ WARN"
    r"|^rknn-toolkit2 version|disable_rules=|The output shape of"
)


@dataclass(frozen=True)
class Build:
    """What the worker returned, the log it wrote, the fusion rules switched off to get there."""

    result: dict[str, Any]
    log: str
    disabled_rules: tuple[str, ...]


def tools() -> dict[str, str]:
    """The toolchain's lock. Raises ToolchainError if it isn't installed."""
    environment.python_of(TOOLCHAIN)
    return {"lock": environment.digest(TOOLCHAIN)}


def compile(request: CompileRequest, progress: Progress) -> CompileResult:  # noqa: A001 - the protocol's word
    """Make a .rknn that takes uint8 pixels [1, height, width, channels]; run it on `request.evaluate`.

    mean and std are folded into it. Details: `placement` (layers, cycles, memory), `disabled_rules`,
    `warnings`, `peak_bytes` of the worker, `fixed_addresses` (whether a rebuild
    usually gives the same bytes; without, unused fields hold other host addresses).
    """
    artefact, logits = request.out / "model.rknn", request.out / "logits.npy"
    arguments = worker_arguments(request, artefact, logits)
    timeout_s = time_limit_s(request)
    jobs = request.out / "jobs"
    if request.plan.ranges or request.plan.sixteen_bit:
        built = realise(request, arguments, jobs, progress, timeout_s)
    else:
        built = build("build", arguments, jobs, progress, timeout_s)
    warnings = warnings_in(built.log)
    for text in warnings:
        progress.warn(f"{request.board.name}: {text}")
    return CompileResult(
        artefact=artefact,
        logits=logits if request.evaluate else None,
        how=HOW,
        tools={"rknn-toolkit2": built.result["toolkit"]},
        details={
            "placement": parse_log(built.log).to_json(),
            "disabled_rules": list(built.disabled_rules),
            "warnings": warnings,
            "peak_bytes": built.result["peak_bytes"],
            "fixed_addresses": built.result["addresses"] == "fixed",
        },
    )


def worker_arguments(request: CompileRequest, artefact: Path, logits: Path) -> dict[str, Any]:
    """The request in the toolkit's terms: mean and std in 0..255, absolute paths."""
    if request.onnx is None or request.board.npu is None:
        raise InputError(
            f"cannot compile for {request.board.name}",
            "its backend needs an ONNX graph and a board profile with an [npu] section",
            "Add npu.target to the profile",
        )
    preprocessing, plan = request.preprocessing, request.plan
    evaluate = str(request.evaluate.resolve()) if request.evaluate else None
    return {
        "model": str(request.onnx.resolve()),
        "target": request.board.npu.target,
        "mean": [value * 255 for value in preprocessing.mean],
        "std": [value * 255 for value in preprocessing.std],
        "artefact": str(artefact.resolve()),
        "quantize": plan.quantized,
        "algorithm": plan.algorithm,
        # Keeps the last reshape of the logits off the CPU; they come out as [1, classes, 1, 1].
        "config": {"remove_reshape": True},
        "calibration": str(request.calibration.resolve()) if plan.quantized else None,
        "evaluate": evaluate,
        "logits": str(logits.resolve()) if evaluate else None,
    }


def realise(
    request: CompileRequest, arguments: dict[str, Any], jobs: Path, progress: Progress, timeout_s: float
) -> Build:
    """Build with the plan's own ranges and 16-bit tensors, written into the vendor's table between its two steps.

    Raises ToolchainError naming a planned tensor that the table has not.
    """
    few = request.out / "seen.npy"
    np.save(few, np.load(request.calibration, mmap_mode="r", allow_pickle=False)[:SEEN_IMAGES])
    names = ("model", "target", "mean", "std", "algorithm", "config")
    first = {name: arguments[name] for name in names} | {"calibration": str(few.resolve())}
    begun = build("hybrid_step1", first, jobs, progress, timeout_s)
    few.unlink()
    table = Path(begun.result["table"])
    text = table.read_text(encoding="utf-8")
    found = rknn_table.match(rknn_table.read_table(text), request.plan.seen)
    rknn_table.require(found, request.plan.ranges)
    planned = rknn_table.edit(text, found, request.plan.ranges, request.plan.sixteen_bit)
    write_atomically(table, planned)
    second = {name: begun.result[name] for name in ("graph", "data", "table")}
    second |= {name: arguments[name] for name in ("artefact", "evaluate", "logits")}
    result = run_job(TOOLCHAIN, "hybrid_step2", second, jobs / "plan", progress=progress, timeout_s=timeout_s)
    for name in ("graph", "data"):
        Path(begun.result[name]).unlink(missing_ok=True)  # as large as the model itself
    return Build(result, read_log(jobs / "plan"), begun.disabled_rules)


def build(call: str, arguments: dict[str, Any], jobs: Path, progress: Progress, timeout_s: float) -> Build:
    """Run a worker's call that compiles, again without each rule that died, as long as the toolkit names new ones.

    Each attempt has a folder with its log. Raises the ToolchainError of the last one.
    """
    disabled: list[str] = []
    while True:
        job = jobs / f"build-{len(disabled)}"
        try:
            attempt = arguments | {"disable_rules": disabled}
            result = run_job(TOOLCHAIN, call, attempt, job, progress=progress, timeout_s=timeout_s)
        except ToolchainError:
            rules = [rule for rule in rules_to_disable(read_log(job)) if rule not in disabled]
            if not rules:
                raise
            progress.warn(f"the toolkit's {' and '.join(rules)} fails on this model; building without it")
            disabled = [*disabled, *rules]
        else:
            return Build(result, read_log(job), tuple(disabled))


def rules_to_disable(log: str) -> list[str]:
    """Fusion rules that the toolkit itself suggests to switch off, in the order it names them."""
    names = [name for text in SUGGESTION.findall(log) for name in re.findall(r"\w+", text)]
    return list(dict.fromkeys(names))


def warnings_in(log: str) -> list[str]:
    """The toolkit's warnings and errors that matter, each once."""
    found = []
    for line in log.splitlines():
        match = WARNING.match(line)
        if match and match[1].strip() and not HARMLESS.search(match[1].strip()):
            found.append(match[1].strip())
    return list(dict.fromkeys(found))


def read_log(job: Path) -> str:
    """A job's log without terminal colours; empty if the worker never started."""
    path = job / "log.txt"
    return COLOUR.sub("", path.read_text(encoding="utf-8", errors="replace")) if path.is_file() else ""
