"""What a run did, as data: from its steps to the typed manifest. Nothing is computed here."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgevit import __version__
from edgevit.conversion.artefacts import Conversion
from edgevit.conversion.inspection import all_costs, latency
from edgevit.conversion.pipeline import Outcome
from edgevit.conversion.sources import fingerprint
from edgevit.errors import EdgevitError, QualityGateMissed
from edgevit.files import publish, write_atomically
from edgevit.metrics.acceptance import Acceptance
from edgevit.metrics.classification import Accuracy
from edgevit.outputs.kinds import kept, unit_of
from edgevit.run.folder import Run
from edgevit.run.manifest import Manifest, manifest_of, write_manifest
from edgevit.run.step import Step, tool_versions
from edgevit.targets.precisions import PRECISIONS

NO_NPU: list[list[dict[str, Any]]] = []


def finish(
    run: Run,
    conversion: Conversion,
    outcomes: Sequence[Outcome],
    warnings: list[str],
    command: Sequence[str] = (),
) -> Manifest:
    """Publish the artefacts under friendly names and write manifest.json.

    `command` is what the user typed after `edgevit`, so that it can be repeated.
    """
    assert run.folder is not None
    job = conversion.job
    results = [result(run.folder, conversion, each, each.step) for each in outcomes if each.step]
    costs = all_costs(conversion) if conversion.reductions else NO_NPU
    check = conversion.preprocessing_check
    doubts = [check.metrics["warning"]] if check and check.metrics["warning"] else []  # said again on a rerun
    manifest = manifest_of(
        {
            "edgevit": __version__,
            "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "command": list(command),
            "configuration": job.to_json(),
            "model": {
                **conversion.model.metrics,
                "key": conversion.model.key,
                "files": conversion.model.inputs["files"],
            },
            "images": {role: images(conversion, role) for role in ("calibration", "validation")},
            "preprocessing": check.metrics if check else None,
            "boards": {board.id: board.model_dump(mode="json") for board in job.targets},
            "recipe": job.recipe.model_dump(mode="json"),
            "host": host(),
            "versions": tool_versions(),
            "stages": [step.to_json() for step in run.steps],
            "peak_memory_mb": max(step.peak_memory_mb for step in run.steps),
            "seconds": round(sum(step.seconds for step in run.steps), 1),
            "costs": costs[0] if costs else [],
            "reductions": [
                reduction(conversion, step, costs[number])
                for number, step in enumerate(conversion.reductions, start=1)
            ],
            "results": results,
            "failures": [failure(each, each.error) for each in outcomes if each.error],
            "warnings": list(
                dict.fromkeys([*doubts, *warnings, *(each["broken"] for each in results if each["broken"])])
            ),
        }
    )
    write_manifest(run.folder, manifest)
    run.forget_others()
    return manifest


def images(conversion: Conversion, role: str) -> dict[str, Any] | None:
    """The record of the images of a role; None where there were none."""
    step: Step | None = getattr(conversion, role)
    found = conversion.image_sets[role]
    return (
        None
        if step is None or found is None
        else {**step.metrics, "key": step.key, "sha256": fingerprint(found)}
    )


def failure(outcome: Outcome, error: EdgevitError) -> dict[str, Any]:
    """The record of a target that could not be made."""
    kind = {"target": outcome.board.id, "precision": outcome.precision}
    return {**kind, "what": error.what, "why": error.why, "fix": error.fix}


def broken(target: str, precision: str, accuracy: dict[str, Any] | None) -> str | None:
    """A warning where an artefact computes something else than the model it was made from."""
    if accuracy is None:
        return None
    share, words = kept(Accuracy(**accuracy))
    if share >= PRECISIONS[precision].min_agreement:
        return None
    return (
        f"{target} {precision} DOES NOT COMPUTE THIS MODEL: {words}; do not ship it. "
        "Leave rewrites out one by one (--without) to see whether the vendor's "
        "compiler breaks one of them"
    )


def reduction(conversion: Conversion, step: Step, costs: list[dict[str, Any]]) -> dict[str, Any]:
    """One lossy step's record: what it left, what it did, what was lost by then, and what it costs each NPU."""
    from edgevit.conversion.resize import advice  # brings torch

    details, size = step.metrics["details"], step.metrics["structure"]["size"]
    notes = [*details["notes"], *advice(details, (size[0], size[1]), conversion.job.targets)]
    return {
        "stage": step.metrics["label"],
        "accuracy": accuracy_of(conversion, conversion.reduction_outputs(step)),
        "parameters": step.metrics["parameters"],
        "multiplications": step.metrics["multiplications"],
        "bytes": step.metrics["bytes"],
        "costs": costs,
        "how": "host CPU",
        "seconds": step.seconds,
        "cached": step.cached,
        "details": {**details, "notes": notes},
    }


def accuracy_of(conversion: Conversion, step: Step | None) -> dict[str, Any] | None:
    """What was measured on a step's answers; None without validation images."""
    found = conversion.evaluated(step)
    return None if found is None else dict(found.metrics)


def result(folder: Path, conversion: Conversion, outcome: Outcome, step: Step) -> dict[str, Any]:
    """One artefact's record: file, size, how it was measured, accuracy against float, gate."""
    board, precision = outcome.board, outcome.precision
    source = step.path(step.metrics["artefact"])
    artefact = folder / f"{conversion.job.name}-{board.id}-{precision}{source.suffix}"
    publish(source, artefact)
    accuracy, exported = accuracy_of(conversion, step), conversion.exported(board, precision)
    plan = conversion.plan(board, precision)
    if plan.ranges:
        write_atomically(artefact.with_suffix(".plan.toml"), plan.to_toml())
    searched = conversion.planned(board, precision)
    search = None if searched is None else dict(searched.metrics)
    diagnosis = diagnosis_of(exported, search)
    kept = {name: value for name, value in plan.to_json().items() if name != "calibrated_ranges"}
    return {
        "target": board.id,
        "precision": precision,
        "artefact": artefact.name,
        "sha256": step.outputs[source.name]["sha256"],
        "bytes": source.stat().st_size,
        "how": step.metrics["how"],
        "step": step.key,
        "export": exported.key,
        "preprocessing": conversion.preprocessing.to_json(),
        "seconds": step.seconds,
        "peak_memory_mb": step.peak_memory_mb,
        "cached": step.cached,
        "accuracy": accuracy,
        "gate": gate(accuracy, search, conversion.job.max_drop),
        # Lossy steps before the export may well change predictions.
        "broken": None if conversion.reductions else broken(board.id, precision, accuracy),
        "notes": conversion.notes(board, precision),
        "plan": {**kept, "ranges": len(plan.ranges)},
        "search": search,
        "diagnosis": diagnosis,
        "latency": latency(step.metrics["details"], board, conversion.multiplications, precision),
        "rewrites": exported.metrics["rewrites"],
        "parity": exported.metrics["max_output_difference"],
        "tools": step.metrics["tools"],
        "details": step.metrics["details"],
    }


def diagnosis_of(exported: Step, search: dict[str, Any] | None) -> dict[str, Any] | None:
    """What made int8 hard: of a plain ViT its export knows, of a graph's tensors its search."""
    known = dict(exported.metrics.get("int8", {}))
    if search is not None and "effects" in search:
        known["effects"] = search.pop("effects")
    return known or None


def gate(
    accuracy: dict[str, Any] | None, search: dict[str, Any] | None, max_drop: float | None
) -> str | None:
    """ "met" or "missed" where the user set a limit: on the validation images, and by the search, if any."""
    if max_drop is None or accuracy is None or accuracy["drop_points"] is None:
        return None
    unproved = search is not None and not search.get("met", True)
    return "met" if not unproved and Acceptance(max_drop).allows(accuracy["drop_points"]) else "missed"


def refuse_incomplete(manifest: Manifest, outcomes: Sequence[Outcome]) -> None:
    """Raise the first failed target's error, and say what was made all the same."""
    failed = [each for each in outcomes if each.error]
    if failed:
        first = failed[0].error
        assert first is not None
        made = ", ".join(each.title for each in manifest.results)
        lost = f"{len(failed)} of {len(outcomes)} artefacts failed, {made} made"
        raise type(first)(
            f"{failed[0].board.id} {failed[0].precision}: {first.what}", f"{first.why} ({lost})", first.fix
        )


def refuse_missed_gate(manifest: Manifest) -> None:
    """Raise QualityGateMissed if any artefact lost more than the user allowed."""
    missed = [each for each in manifest.results if each.gate == "missed"]
    if missed:
        lost = ", ".join(
            f"{each.title} lost {each.accuracy.drop_points:.2f} {unit_of(each.accuracy)}"
            for each in missed
            if each.accuracy is not None and each.accuracy.drop_points is not None
        )
        reasons = [each.search.explanation for each in missed if each.search and not each.search.met]
        raise QualityGateMissed(
            f"--max-drop {manifest.configuration.max_drop:g} was not met",
            "; ".join([lost, *reasons]),
            "The artefacts are kept and marked in manifest.json; use --precision float where the target "
            "has it, or accept a larger drop",
        )


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
