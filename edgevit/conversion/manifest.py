"""What a run did, as data: the run directory's manifest.json, and the only input of summaries and reports."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from edgevit import __version__
from edgevit.conversion.inspection import costs, latency
from edgevit.conversion.pipeline import Conversion, Outcome
from edgevit.errors import QualityGateMissed
from edgevit.files import publish, write_atomically
from edgevit.metrics.classification import compare
from edgevit.run.reading import FORMAT
from edgevit.run.store import Run, Step

MIN_AGREEMENT = {"float": 0.9, "int8": 0.5}  # below, something is broken, not merely coarse
LIBRARIES = ("torch", "torchvision", "timm", "onnx", "onnxruntime", "numpy", "pillow")


def finish(
    run: Run,
    conversion: Conversion,
    outcomes: Sequence[Outcome],
    warnings: list[str],
    command: Sequence[str] = (),
) -> dict[str, Any]:
    """Publish the artefacts under friendly names, compare each with the float model, write manifest.json.

    `command` is what the user typed after `edgevit`, for whoever wants to do it again.
    """
    job = conversion.job
    results = [result(run, conversion, outcome) for outcome in outcomes]
    manifest = {
        "format": FORMAT,
        "edgevit": __version__,
        "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": list(command),
        "configuration": job.to_json(),
        "model": dict(conversion.model.metrics),
        "images": {
            role: None if step is None else {**step.metrics, "key": step.key}
            for role, step in (("calibration", conversion.calibration), ("validation", conversion.validation))
        },
        "boards": {board.id: board.model_dump(mode="json") for board in job.targets},
        "recipe": job.recipe.model_dump(mode="json"),
        "host": host(),
        "versions": {name: version(name) for name in LIBRARIES},
        "stages": [step.to_json() for step in all_steps(conversion, outcomes)],
        "peak_memory_mb": max(step.peak_memory_mb for step in all_steps(conversion, outcomes)),
        "seconds": round(sum(step.seconds for step in all_steps(conversion, outcomes)), 1),
        "costs": costs(conversion, 0) if conversion.reductions else [],
        "reductions": [reduction(conversion, step) for step in conversion.reductions],
        "results": results,
        "warnings": [*warnings, *(each["broken"] for each in results if each["broken"])],
    }
    write_atomically(run.folder / "manifest.json", json.dumps(manifest, indent=1))
    return manifest


def broken(target: str, precision: str, accuracy: dict[str, Any] | None) -> str | None:
    """A warning where an artefact computes something else than the model it was made from."""
    if accuracy is None or accuracy["agreement"] >= MIN_AGREEMENT[precision]:
        return None
    return (
        f"{target} {precision} DOES NOT COMPUTE THIS MODEL: it keeps {100 * accuracy['agreement']:.0f} % of the "
        "predictions; do not ship it. Leave rewrites out one by one (--without) to see whether the vendor's "
        "compiler breaks one of them"
    )


def reduction(conversion: Conversion, step: Step) -> dict[str, Any]:
    """One lossy step's record: what it left, what it did, and what was lost by then, against the original,
    and what it costs each NPU."""
    logits = conversion.reduction_logits(step)
    steps = conversion.reductions.index(step) + 1
    return {
        "stage": step.metrics["label"],
        "accuracy": None if logits is None else measured(conversion, logits),
        "parameters": step.metrics["parameters"],
        "multiplications": step.metrics["multiplications"],
        "bytes": step.metrics["bytes"],
        "costs": costs(conversion, steps),
        "how": "host CPU",
        "seconds": step.seconds,
        "cached": step.cached,
        "details": step.metrics["details"],
    }


def result(run: Run, conversion: Conversion, outcome: Outcome) -> dict[str, Any]:
    """One artefact's record: file, size, how it was measured, accuracy against float, gate."""
    source = outcome.step.path(outcome.step.metrics["artefact"])
    artefact = run.folder / f"{conversion.job.name}-{outcome.board.id}-{outcome.precision}{source.suffix}"
    publish(source, artefact)
    accuracy = measured(conversion, outcome.step)
    plan = conversion.plan(outcome.board, outcome.precision)
    if plan.ranges:
        write_atomically(artefact.with_suffix(".plan.toml"), plan.to_toml())
    searched = conversion.planned(outcome.board, outcome.precision)
    search = None if searched is None else dict(searched.metrics)
    return {
        "target": outcome.board.id,
        "precision": outcome.precision,
        "artefact": artefact.name,
        "sha256": outcome.step.outputs[source.name]["sha256"],
        "bytes": source.stat().st_size,
        "how": outcome.step.metrics["how"],
        "seconds": outcome.step.seconds,
        "peak_memory_mb": outcome.step.peak_memory_mb,
        "cached": outcome.step.cached,
        "accuracy": accuracy,
        "gate": gate(accuracy, search, conversion.job.max_drop),
        # Lossy steps before the export may well change predictions.
        "broken": None if conversion.reductions else broken(outcome.board.id, outcome.precision, accuracy),
        "plan": {name: value for name, value in plan.to_json().items() if name not in ("ranges", "seen")},
        "search": search,
        "diagnosis": conversion.exported(outcome.board, outcome.precision).metrics.get("int8"),
        "latency": latency(outcome.step.metrics["details"], outcome.board),
        "details": outcome.step.metrics["details"],
    }


def measured(conversion: Conversion, step: Step) -> dict[str, Any] | None:
    """Accuracy of a step's logits against the float reference; None where there were no validation images."""
    reference, validation = conversion.reference, conversion.validation
    if reference is None or validation is None:
        return None
    labels = np.load(validation.path("labels.npy")) if validation.metrics["labelled"] else None
    logits = np.load(step.path("logits.npy"))
    return compare(logits, np.load(reference.path("logits.npy")), labels).to_json()


def gate(
    accuracy: dict[str, Any] | None, search: dict[str, Any] | None, max_drop: float | None
) -> str | None:
    """ "met" or "missed" where the user set a limit: on the validation images, and by the search, if any."""
    if max_drop is None or accuracy is None:
        return None
    unproved = search is not None and not search.get("met", True)
    return "missed" if unproved or accuracy["drop_points"] > max_drop else "met"


def refuse_missed_gate(manifest: dict[str, Any]) -> None:
    """Raise QualityGateMissed if any artefact lost more than the user allowed."""
    missed = [result for result in manifest["results"] if result["gate"] == "missed"]
    if missed:
        limit = manifest["configuration"]["max_drop"]
        lost = ", ".join(
            f"{r['target']} {r['precision']} lost {r['accuracy']['drop_points']:.2f} points" for r in missed
        )
        reasons = [
            r["search"]["sentence"] for r in missed if r["search"] and not r["search"].get("met", True)
        ]
        raise QualityGateMissed(
            f"--max-drop {limit:g} was not met",
            "; ".join([lost, *reasons]),
            "The artefacts are kept and marked in manifest.json; use --precision float where the target "
            "has it, or accept a larger drop",
        )


def all_steps(conversion: Conversion, outcomes: Sequence[Outcome]) -> list[Step]:
    """Every step of the run in order, each once."""
    steps = [conversion.model, conversion.probe, conversion.validation, conversion.reference]
    steps += [each for step in conversion.reductions for each in (step, conversion.reduction_logits(step))]
    steps += [conversion.exported(outcome.board, outcome.precision) for outcome in outcomes]
    steps += [conversion.lowered(outcome.board, outcome.precision) for outcome in outcomes]
    steps += [conversion.planned(outcome.board, outcome.precision) for outcome in outcomes]
    steps += [outcome.step for outcome in outcomes]
    unique = {step.key: step for step in steps if step is not None}
    return list(unique.values())


def host() -> dict[str, Any]:
    """The machine the numbers were made on."""
    import psutil

    return {
        "system": platform.platform(),
        "machine": platform.machine(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "memory_mb": psutil.virtual_memory().total // 2**20,
        "python": platform.python_version(),
    }


def cpu_name() -> str:
    """The processor's name as Linux gives it, else what Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
