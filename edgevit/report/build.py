"""From run directories to a report's content: a pure function of what is in them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from edgevit import __version__
from edgevit.images.labels import fitting
from edgevit.report.artefacts import Omissions, artefact
from edgevit.report.boards import loss
from edgevit.report.content import Artefact, Report, Run, Stage
from edgevit.report.pareto import paretos
from edgevit.report.text import clean, lines, number, pairs, whole
from edgevit.run.reading import RunFiles, as_dict, names_of_classes, stages

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
    counts = [run.manifest["model"].get("num_classes") for run in runs]
    return names if len(names) in counts else fitting(names, counts[0])


def run_of(run: RunFiles, name: str, anchor: str, labels: tuple[str, ...] | None) -> Run:
    """One run's part, under the name it goes by."""
    manifest, omissions = run.manifest, Omissions(clean(each, 300) for each in run.unreadable)
    model = manifest["model"]
    names = labels if labels and len(labels) == model.get("num_classes") else names_of_classes(run)
    results = manifest["results"][:MAX_ARTEFACTS]
    artefacts = tuple(
        artefact(run, result, names, f"{anchor}-{index}", omissions) for index, result in enumerate(results)
    )
    command, command_from = omissions.attempt("command", lambda: command_of(manifest), ("", ""))
    return Run(
        anchor=anchor,
        name=name,
        folder=clean(run.folder),
        model=clean(model.get("name"), 120) or "model",
        source=clean(model.get("source")),
        parameters=whole(model.get("parameters")) or None,
        classes=whole(model.get("num_classes")) or None,
        size=omissions.attempt("input size", lambda: size_of(model), ""),
        images=omissions.attempt("images", lambda: images_of(manifest), ""),
        images_key=images_key(manifest),
        written=clean(manifest.get("written"), 40),
        notes=lines(model.get("notes")),
        waterfall=omissions.attempt("waterfall", lambda: waterfall(manifest, artefacts), ()),
        artefacts=artefacts,
        mapping_parity=number(model.get("parity")),
        command=command,
        command_from=command_from,
        recipe=recipe_of(manifest),
        versions=(("edgevit", clean(manifest.get("edgevit"))), *pairs(manifest.get("versions"))),
        host=host_of(manifest),
        stages=tuple(map(stage_row, stages(manifest))),
        inputs=omissions.attempt("input hashes", lambda: inputs_of(run), ()),
        warnings=lines(manifest.get("warnings")),
        omissions=tuple(omissions),
    )


def size_of(model: dict[str, Any]) -> str:
    """Input size and normalisation in words."""
    values = model["preprocessing"]
    height, width = values["size"]
    return clean(f"{height} x {width} {values.get('channels', 'RGB')}, {values.get('interpolation', '')}", 80)


def images_of(manifest: dict[str, Any]) -> str:
    """How many images of each role there were."""
    parts = []
    for role, values in as_dict(manifest.get("images")).items():
        if isinstance(values, dict):
            labelled = "labelled " if values.get("labelled") else ""
            parts.append(f"{whole(values.get('n'))} {labelled}{clean(role, 40)} images")
    return ", ".join(reversed(parts)) or "no images"


def images_key(manifest: dict[str, Any]) -> str | None:
    """What identifies the validation images, as pixels: runs that share it were measured on the same."""
    key = as_dict(as_dict(manifest.get("images")).get("validation")).get("key")
    return key if isinstance(key, str) else None


def waterfall(manifest: dict[str, Any], artefacts: tuple[Artefact, ...]) -> tuple[Stage, ...]:
    """Top-1 stage by stage: float, each lossy step before export, then each artefact from the last of them."""
    measured = next((each.loss for each in artefacts if each.loss and each.loss.top1 is not None), None)
    if measured is None or measured.reference_top1 is None:
        return ()
    top1 = measured.reference_top1
    model = clean(manifest["model"].get("name"), 80)
    rows = [Stage(f"float {model}", "float", top1, top1, None, None, None, measured.n, "host CPU")]
    for values in manifest.get("reductions") or ():
        found = loss(values.get("accuracy"), clean(values.get("how")) or "host CPU")
        if found is None or found.top1 is None:
            continue
        rows.append(stage(clean(values.get("stage"), 80), "reduction", found, top1, note_of(values)))
        top1 = found.top1
    for each in artefacts:
        if each.loss is not None and each.loss.top1 is not None:
            rows.append(stage(each.title, "artefact", each.loss, top1, ""))
    return tuple(rows)


def note_of(reduction: dict[str, Any]) -> str:
    """What a lossy step left and did."""
    left, details = whole(reduction.get("parameters")), as_dict(reduction.get("details"))
    said = lines([details.get("what"), *(details.get("notes") or ())])
    priced = [
        f"{clean(cost.get('target'), 40)} {clean(cost.get('precision'), 20)} {whole(cost.get('cycles')):,} cycles"
        for cost in map(as_dict, reduction.get("costs") or ())
    ]
    return "; ".join([f"{left / 1e6:.2f} M parameters left"] * bool(left) + priced + list(said))


def stage(name: str, kind: Any, found: Any, before: float, note: str) -> Stage:
    """A row of the waterfall."""
    return Stage(name, kind, found.top1, before, found.drop, found.low, found.high, found.n, found.how, note)


def command_of(manifest: dict[str, Any]) -> tuple[str, str]:
    """The command line as it was typed, else one made up from the configuration; and which of the two."""
    typed = manifest.get("command")
    if isinstance(typed, list) and typed:
        return clean("edgevit " + shlex.join(map(str, typed)), 2000), "as it was typed"
    values = manifest["configuration"]
    words = ["edgevit", "convert"] + ([] if values["model"] == "demo" else [str(values["model"])])
    for name in (
        "weights",
        "calibration",
        "validation",
        "calibration_images",
        "validation_images",
        "max_drop",
    ):
        if values.get(name) is not None:
            words += [f"--{name.replace('_', '-')}", str(values[name])]
    for option, name in (("--target", "targets"), ("--precision", "precisions"), ("--without", "without")):
        for each in values.get(name) or ():
            words += [option, str(each)]
    words += ["--recipe", str(values["recipe"])] if values.get("recipe") else []
    words += ["--seed", str(values["seed"])] if values.get("seed") else []
    return clean(shlex.join(words), 2000), "put together from the configuration"


def recipe_of(manifest: dict[str, Any]) -> str:
    """The quantization recipe in a line."""
    recipe = as_dict(manifest.get("recipe"))
    return " \u2013 ".join(clean(recipe.get(name)) for name in ("id", "name") if recipe.get(name))


def host_of(manifest: dict[str, Any]) -> str:
    """The machine that converted."""
    host = as_dict(manifest.get("host"))
    cores, memory = whole(host.get("cores")), whole(host.get("memory_mb"))
    parts = [clean(host.get("cpu"), 80), f"{cores} cores" if cores else ""]
    parts += [f"{memory / 1024:.0f} GiB" if memory else "", clean(host.get("system"), 120)]
    parts += [f"Python {clean(host['python'], 20)}" if host.get("python") else ""]
    return ", ".join(part for part in parts if part)


def stage_row(values: dict[str, Any]) -> tuple[str, float, int, str]:
    """A stage's name, seconds, peak memory in MB, and the beginning of its content key."""
    name, seconds = clean(values.get("stage"), 60), number(values.get("seconds")) or 0.0
    return name, seconds, whole(values.get("peak_memory_mb")), clean(values.get("key"), 80)[:12]


def inputs_of(run: RunFiles) -> tuple[tuple[str, str], ...]:
    """What went in with its sha256: the model's files, the images of each role."""
    model = as_dict(as_dict(run.stage("model")).get("inputs"))
    found = list(pairs(model.get("files")))
    for role in ("calibration", "validation"):
        images = as_dict(as_dict(run.stage(role)).get("inputs")).get("images")
        found += [(f"{role} images", clean(images, 80))] if images else []
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
