"""The table a conversion ends with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click

from edgevit.cli.console import print_table
from edgevit.cli.placement import latency_lines
from edgevit.metrics.classification import Accuracy
from edgevit.outputs.kinds import columns_of
from edgevit.outputs.told import Column
from edgevit.request.job import Job
from edgevit.run.manifest import Manifest
from edgevit.run.results import Reduction, Result


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
    means = manifest.model.gives.first.means
    columns = columns_of(accuracy, means)
    rows = [[*reference_row(accuracy, columns)]] if accuracy else []
    rows += [[*reduction_row(reduction, columns)] for reduction in manifest.reductions]
    rows += [[*result_row(result, columns)] for result in results]
    notes = [
        means.legend,
        *other_outputs(manifest),
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
    titles = ("target", "type", *(each.title for each in columns), "lost [95 %]", "MB", "how")
    print_table(f"{manifest.model.name}{images}", titles, rows, notes)


def other_outputs(manifest: Manifest) -> list[str]:
    """What a model of several outputs lost of those after the first."""
    given = manifest.model.gives.each
    told = [f"measured on the output {given[0].name}, {given[0].means.description}"] if len(given) > 1 else []
    for result in manifest.results:
        for output in given[1:]:
            found = result.accuracy and result.accuracy.others.get(output.name)
            if found:
                figures = Accuracy(**found)
                shown = ", ".join(f"{each.title} {each.value(figures)}" for each in output.means.columns)
                told.append(f"{result.title}, {output.name} ({output.kind}): {shown}")
    return told


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


def reference_row(accuracy: Accuracy, columns: Sequence[Column]) -> tuple[str, ...]:
    """The float model's own row."""
    return ("torch", "float", *(each.reference(accuracy) for each in columns), "", "", "host CPU")


def reduction_row(reduction: Reduction, columns: Sequence[Column]) -> tuple[str, ...]:
    """The float model after one lossy step."""
    size = f"{reduction.bytes / 1e6:.1f}"
    return (reduction.stage, "float", *measures(reduction.accuracy, columns), size, reduction.how)


def measures(accuracy: Accuracy | None, columns: Sequence[Column], mark: str = "") -> tuple[str, ...]:
    """The figures of an output's kind, and what was lost."""
    if accuracy is None:
        return ("",) * (len(columns) + 1)
    return (*(each.value(accuracy) for each in columns), lost(accuracy) + mark)


def result_row(result: Result, columns: Sequence[Column]) -> tuple[str, ...]:
    """One artefact's row."""
    size, mark = f"{result.bytes / 1e6:.1f}", " MISSED" if result.gate == "missed" else ""
    return (
        result.target,
        result.precision,
        *measures(result.accuracy, columns, mark),
        size,
        result.how,
    )


def lost(accuracy: Accuracy) -> str:
    """What was lost with its interval; empty where that needs labels."""
    if accuracy.drop_points is None:
        return ""
    return f"{accuracy.drop_points:.2f} [{accuracy.drop_low:.1f}, {accuracy.drop_high:.1f}]"
