"""From run directories to a report's content: a pure function of what is in them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Literal

from edgevit import __version__
from edgevit.images.labels import fitting
from edgevit.outputs.kinds import Kind
from edgevit.reporting.artefacts import Omissions, artefact
from edgevit.reporting.boards import loss
from edgevit.reporting.content import Artefact, Report, Run, Stage
from edgevit.reporting.pareto import paretos
from edgevit.reporting.sections import Loss
from edgevit.reporting.text import clean, lines, pairs
from edgevit.run.manifest import Host, Manifest, StepRecord
from edgevit.run.reading import RunFiles
from edgevit.run.results import Reduction

FEW_IMAGES = 200
MAX_ARTEFACTS = 60


def build(runs: Sequence[RunFiles], labels: tuple[str, ...] | None = None) -> Report:
    """The content of a report on one or more runs; `labels` name the classes where a run doesn't know them."""
    names = [clean(run.folder.resolve().name, 80) for run in runs]
    made = tuple(
        run_of(run, name if names.count(name) == 1 else clean(run.folder, 80), f"run{number}", labels)
        for number, (run, name) in enumerate(zip(runs, names, strict=True), start=1)
    )
    models = dict.fromkeys(run.model for run in made)
    return Report(", ".join(models), __version__, made, paretos(made), cautions(made))


def fitting_one(names: tuple[str, ...], runs: Sequence[RunFiles]) -> tuple[str, ...]:
    """Class names that fit at least one run; the others keep their own. Raises InputError where they fit none."""
    counts = [run.manifest.model.num_classes for run in runs]
    return names if len(names) in counts else fitting(names, counts[0])


def run_of(run: RunFiles, name: str, anchor: str, labels: tuple[str, ...] | None) -> Run:
    """One run's part, under the name it goes by."""
    manifest, omissions = run.manifest, Omissions(clean(each, 300) for each in run.unreadable)
    model = manifest.model
    names = labels if labels and len(labels) == model.num_classes else manifest.class_names
    artefacts = tuple(
        artefact(run, result, names, f"{anchor}-{index}", omissions)
        for index, result in enumerate(manifest.results[:MAX_ARTEFACTS])
    )
    command, command_from = command_of(manifest)
    failures = [f"{each.title} failed: {each.what}: {each.why}. {each.fix}." for each in manifest.failures]
    return Run(
        anchor=anchor,
        name=name,
        folder=clean(run.folder),
        model=clean(model.name, 120) or "model",
        source=clean(model.source),
        parameters=model.parameters or None,
        classes=model.num_classes or None,
        metric=metric_of(artefacts, model.gives.first.means),
        divergence=model.gives.first.means.divergence,
        size=clean(model.preprocessing.describe(), 200),
        prepared_by=clean(model.preprocessing_from, 200),
        images=images_of(manifest),
        images_key=manifest.images.validation.key if manifest.images.validation else None,
        written=clean(manifest.written, 40),
        notes=lines(model.notes),
        waterfall=waterfall(manifest, artefacts),
        artefacts=artefacts,
        mapping_parity=model.parity,
        command=command,
        command_from=command_from,
        recipe=f"{clean(manifest.recipe.id)} \u2013 {clean(manifest.recipe.name)}" if manifest.recipe else "",
        versions=(("edgevit", clean(manifest.edgevit)), *pairs(manifest.versions)),
        host=host_of(manifest.host),
        stages=tuple(map(stage_row, manifest.stages)),
        inputs=inputs_of(manifest),
        warnings=lines([*failures, *manifest.warnings]),
        omissions=tuple(omissions),
    )


def metric_of(artefacts: tuple[Artefact, ...], means: Kind) -> str:
    """What right answers are called."""
    losses = [each.loss for each in artefacts if each.loss is not None]
    return clean(losses[0].metric, 60) if losses and losses[0].metric else means.columns[0].title


def images_of(manifest: Manifest) -> str:
    """How many images of each role there were."""
    roles = (("validation", manifest.images.validation), ("calibration", manifest.images.calibration))
    parts = [f"{each.n} {'labelled ' if each.labelled else ''}{role} images" for role, each in roles if each]
    return ", ".join(parts) or "no images"


def waterfall(manifest: Manifest, artefacts: tuple[Artefact, ...]) -> tuple[Stage, ...]:
    """Top-1 stage by stage: float, each lossy step before export, then each artefact from the last of them."""
    measured = next((each.loss for each in artefacts if each.loss and each.loss.top1 is not None), None)
    if measured is None or measured.reference_top1 is None:
        return ()
    top1 = measured.reference_top1
    model = clean(manifest.model.name, 80)
    rows = [Stage(f"float {model}", "float", top1, top1, None, None, None, measured.n, "host CPU")]
    for each in manifest.reductions:
        found = loss(each.accuracy, clean(each.how) or "host CPU")
        if found is None or found.top1 is None:
            continue
        rows.append(stage(clean(each.stage, 80), "reduction", found, top1, note_of(each)))
        top1 = found.top1
    for made in artefacts:
        if made.loss is not None and made.loss.top1 is not None:
            rows.append(stage(made.title, "artefact", made.loss, top1, ""))
    return tuple(rows)


def note_of(reduction: Reduction) -> str:
    """What a lossy step left and did."""
    left, said = reduction.parameters, lines([reduction.details.what, *reduction.details.notes])
    priced = [
        f"{clean(cost.target, 40)} {clean(cost.precision, 20)} {cost.cycles:,} cycles"
        for cost in reduction.costs
    ]
    return "; ".join([f"{left / 1e6:.2f} M parameters left"] * bool(left) + priced + list(said))


def stage(name: str, kind: Literal["reduction", "artefact"], found: Loss, before: float, note: str) -> Stage:
    """A row of the waterfall."""
    ends = found.drop_points, found.drop_low, found.drop_high
    return Stage(name, kind, found.top1 or 0.0, before, *ends, found.n, found.how, note)


def command_of(manifest: Manifest) -> tuple[str, str]:
    """The command line as it was typed, else one made up from the configuration; and which of the two."""
    if manifest.command:
        return clean("edgevit " + shlex.join(manifest.command), 2000), "as it was typed"
    asked = manifest.configuration
    words = ["edgevit", "convert"] + ([] if asked.model == "demo" else [asked.model])
    single = ("weights", "calibration", "validation", "calibration_images", "validation_images", "max_drop")
    for name in single:
        if getattr(asked, name) is not None:
            words += [f"--{name.replace('_', '-')}", str(getattr(asked, name))]
    for option, values in (
        ("--target", asked.targets),
        ("--precision", asked.precisions),
        ("--without", asked.without),
    ):
        words += [word for each in values for word in (option, each)]
    words += ["--recipe", asked.recipe] if asked.recipe else []
    words += ["--seed", str(asked.seed)] if asked.seed else []
    return clean(shlex.join(words), 2000), "put together from the configuration"


def host_of(host: Host) -> str:
    """The machine that converted."""
    parts = [clean(host.cpu, 80), f"{host.cores} cores" if host.cores else ""]
    parts += [f"{host.memory_mb / 1024:.0f} GiB" if host.memory_mb else "", clean(host.system, 120)]
    parts += [f"Python {clean(host.python, 20)}" if host.python else ""]
    return ", ".join(part for part in parts if part)


def stage_row(step: StepRecord) -> tuple[str, float, int, str]:
    """A step's name, seconds, peak memory in MB, and the beginning of its content key."""
    return clean(step.stage, 60), step.seconds, step.peak_memory_mb, clean(step.key, 80)[:12]


def inputs_of(manifest: Manifest) -> tuple[tuple[str, str], ...]:
    """What went in with its sha256: the model's files, the images of each role."""
    found = list(pairs(manifest.model.files))
    for role, images in (
        ("calibration", manifest.images.calibration),
        ("validation", manifest.images.validation),
    ):
        found += [(f"{role} images", clean(images.sha256, 80))] if images and images.sha256 else []
    return tuple(found)


def cautions(runs: tuple[Run, ...]) -> tuple[str, ...]:
    """What a reader must know before comparing."""
    found = []
    keys = {run.images_key for run in runs}
    if len(runs) > 1 and len(keys) > 1:
        found.append("The runs were measured on different validation images: compare losses, never top-1.")
    if len({run.model for run in runs}) > 1:
        found.append("The runs are of different models: each loss is against its own float model.")
    few = {each.loss.n for run in runs for each in run.artefacts if each.loss and each.loss.n < FEW_IMAGES}
    if few:
        found.append(f"n = {min(few)}: too few images to tell small losses apart; read the intervals.")
    measured = (bench.how for run in runs for each in run.artefacts for bench in each.benches)
    if not any(how.startswith("measured on") for how in measured):
        found.append("Nothing here was measured on a board yet: edgevit bench RUN --board WHERE does that.")
    return tuple(found)
