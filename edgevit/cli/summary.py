"""The table a conversion ends with."""

from __future__ import annotations

import json
from pathlib import Path

import click

from edgevit.cli.console import print_table
from edgevit.cli.placement import latency_lines
from edgevit.metrics.classification import Accuracy
from edgevit.request.job import Job
from edgevit.run.manifest import Manifest
from edgevit.run.results import Reduction, Result

COLUMNS = ("target", "type", "top-1", "top-5", "agrees", "KL", "cosine", "lost [95 %]", "MB", "how")
LEGEND = (
    "top-1, top-5, agrees (same prediction as float) in %; lost: points of top-1 against float, paired; "
    "KL in nats"
)


def print_plan(job: Job, stages: list[tuple[str, str]], as_json: bool) -> None:
    """Print what a conversion would do."""
    if as_json:
        click.echo(
            json.dumps(
                {"configuration": job.to_json(), "run": str(job.out), "stages": dict(stages)}, indent=1
            )
        )
        return
    print_table(f"{job.model}: what would be done", ("stage", "state"), stages, [f"run: {job.out}"])


def print_summary(manifest: Manifest, folder: Path) -> None:
    """Print every artefact against the float model, then where the run is."""
    results = manifest.results
    accuracy = next((result.accuracy for result in results if result.accuracy), None)
    rows = [[*reference_row(accuracy)]] if accuracy else []
    rows += [[*reduction_row(reduction)] for reduction in manifest.reductions]
    rows += [[*result_row(result)] for result in results]
    notes = [
        LEGEND,
        *reduction_notes(manifest),
        *cost_notes(manifest),
        *search_notes(manifest),
        *latency_notes(manifest),
        *parity_notes(manifest),
        *preprocessing_notes(manifest),
        *manifest.model.notes,
        *(f"{each.title}: {note}" for each in manifest.results for note in each.notes),
        *(f"{each.title} failed: {each.what}: {each.why}" for each in manifest.failures),
        f"run: {folder}; a report to hand on: edgevit report {folder}",
    ]
    if accuracy is None:
        notes.insert(0, "accuracy was not measured: pass --validation with images it can be measured on")
    elif accuracy.n < 200:
        notes.insert(0, f"n = {accuracy.n}: too few images to tell small losses apart; read the interval")
    check = manifest.preprocessing
    doubts = [check.warning] if check and check.warning else []
    notes = [*doubts, *(result.broken for result in results if result.broken), *notes]
    images = f", {accuracy.n} validation images" if accuracy else ""
    print_table(f"{manifest.model.name}{images}", COLUMNS, rows, notes)


def preprocessing_notes(manifest: Manifest) -> list[str]:
    """How images were prepared, and who says so."""
    model = manifest.model
    origin = f" ({model.preprocessing_from})" if model.preprocessing_from else ""
    return [f"images: {model.preprocessing.describe()}{origin}"]


def search_notes(manifest: Manifest) -> list[str]:
    """How each artefact's precision was chosen; in capitals where it made the model slower."""
    return [
        f"{result.target} {result.precision}: {result.search.explanation}"
        for result in manifest.results
        if result.search
    ]


def latency_notes(manifest: Manifest) -> list[str]:
    """What the artefacts may take on their targets, where that can be estimated."""
    return [
        f"{result.target} {result.precision}: {line}"
        for result in manifest.results
        for line in latency_lines(result.latency)
    ]


def reduction_notes(manifest: Manifest) -> list[str]:
    """How each lossy step came about, and what the user should know of it."""
    return [
        f"{reduction.stage}: {sentence}"
        for reduction in manifest.reductions
        for sentence in dict.fromkeys([reduction.details.what, *reduction.details.notes])
    ]


def cost_notes(manifest: Manifest) -> list[str]:
    """Each NPU's cycles from lossy step to lossy step."""
    notes = []
    for each in manifest.costs:
        by_step = [("whole", each.cycles)] + [
            (reduction.stage, cost.cycles)
            for reduction in manifest.reductions
            for cost in reduction.costs
            if cost.target == each.target
        ]
        cycles = ", ".join(f"{stage} {count:,}" for stage, count in by_step)
        notes.append(f"{each.target} {each.precision} cycles an image ({each.how}): {cycles}")
    return notes


def parity_notes(manifest: Manifest) -> list[str]:
    """How far exact steps moved an output: the mapping of foreign weights, the export."""
    notes = []
    if manifest.model.parity is not None:
        notes.append(
            f"weights mapped to the canonical ViT: largest output difference {manifest.model.parity:.1e}"
        )
    differences = [each.parity for each in manifest.results if each.parity is not None]
    if differences:
        notes.append(f"exported graph against torch: largest output difference {max(differences):.1e}")
    return notes


def reference_row(accuracy: Accuracy) -> tuple[str, ...]:
    """The float model's own row."""
    top1, top5 = accuracy.reference_top1, accuracy.reference_top5
    return ("torch", "float", percent(top1), percent(top5), "", "", "", "", "", "host CPU")


def reduction_row(reduction: Reduction) -> tuple[str, ...]:
    """The float model after one lossy step."""
    size, accuracy = f"{reduction.bytes / 1e6:.1f}", reduction.accuracy
    if accuracy is None:
        return (reduction.stage, "float", *[""] * 6, size, reduction.how)
    return (reduction.stage, "float", *measures(accuracy), lost(accuracy), size, reduction.how)


def measures(accuracy: Accuracy) -> tuple[str, ...]:
    """The columns top-1 to cosine."""
    return (
        percent(accuracy.top1),
        percent(accuracy.top5),
        percent(accuracy.agreement),
        f"{accuracy.kl:.4f}",
        f"{accuracy.cosine:.4f}",
    )


def result_row(result: Result) -> tuple[str, ...]:
    """One artefact's row."""
    size = f"{result.bytes / 1e6:.1f}"
    accuracy = result.accuracy
    if accuracy is None:
        return (result.target, result.precision, *[""] * 6, size, result.how)
    mark = " MISSED" if result.gate == "missed" else ""
    return (
        result.target,
        result.precision,
        *measures(accuracy),
        lost(accuracy) + mark,
        size,
        result.how,
    )


def lost(accuracy: Accuracy) -> str:
    """Points lost with their interval; empty without labels."""
    if accuracy.drop_points is None:
        return ""
    return f"{accuracy.drop_points:.2f} [{accuracy.drop_low:.1f}, {accuracy.drop_high:.1f}]"


def percent(share: float | None) -> str:
    """A share as percent with two decimals; empty where there were no labels."""
    return "" if share is None else f"{100 * share:.2f}"
