"""`edgevit sweep`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgevit.cli.options import FILE, SEED, TEXT, Finite, cluster_options
from edgevit.targets.precisions import DEFAULT

if TYPE_CHECKING:
    from edgevit.sweeping.spec import Spec
    from edgevit.sweeping.sweep import Swept

LISTS = ("resolution", "prune_heads", "prune_mlp", "precisions")


@click.command(name="sweep")
@click.argument("models", nargs=-1, required=True, metavar="SPEC.toml|MODEL...", type=TEXT)
@click.option("--weights", type=FILE, help="Trained weights, where there is one model.")
@click.option("--target", "targets", type=TEXT, multiple=True, metavar="NAME", help="Repeatable.")
@click.option("--resolution", type=TEXT, metavar="LIST", help="Input sizes: 224,192,160; own is the model's.")
@click.option("--prune-heads", type=TEXT, metavar="LIST", help="Attention heads to remove: 0,3,6.")
@click.option("--prune-mlp", type=TEXT, metavar="LIST", help="MLP neurons to remove: 0,0.1.")
@click.option("--precision", "precisions", type=TEXT, metavar="LIST", default=DEFAULT, help="int8,float.")
@click.option("--preprocessing", type=TEXT, metavar="FILE|NAME", help="As of `edgevit convert`.")
@click.option("--calibration", type=FILE, help="Typical images for int8: a folder, or a CSV.")
@click.option("--validation", type=FILE, help="Labelled images to measure on.")
@click.option("--calibration-images", type=click.IntRange(1), help="Use this many.")
@click.option("--validation-images", type=click.IntRange(1), help="Use this many; all by default.")
@click.option("--max-drop", type=Finite(0), help="What each point's search may lose.")
@click.option("--search-minutes", type=Finite(0), help="Time of each point's search.")
@click.option(
    "--max-ms", type=Finite(0, min_open=True), help="The most accurate point within this time an image."
)
@click.option("--fps", type=Finite(0, min_open=True), help="The same, as frames a second.")
@click.option("--max-mb", type=Finite(0, min_open=True), help="And within this size of its file.")
@click.option("--jobs", type=click.IntRange(1), help="Points at once on this machine; by memory and cores.")
@cluster_options
@click.option("--every", is_flag=True, help="Make all points, on all images.")
@click.option("--out", type=FILE, default=Path("runs/sweep"), show_default=True, help="Folder for all of it.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Decides which images a limit picks.")
@click.option("--dry-run", is_flag=True, help="List the points, and do nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print every point as JSON on standard output.")
def command(
    models: tuple[str, ...],
    out: Path,
    every: bool,
    dry_run: bool,
    as_json: bool,
    jobs: int | None,
    scheduler: str | None,
    local: int | None,
    **options: Any,
) -> None:
    """Convert every combination of models, sizes, targets and precisions, and say which to ship.

    Points that can't be among the best are left out: another is made that costs no more than their least and loses
    less than their least, or a limit is missed even at the low end of the estimate. Milliseconds are a board's
    where `edgevit bench` measured the point's run, else the estimate's. With 1000 validation images or more, points
    are compared on 200 first, and those that may still be best on five times as many, and so on. Each point is what
    `edgevit convert` alone gives. Killed, it goes on where it was.

    \b
    Examples:
      edgevit sweep deit_tiny_patch16_224 --weights my.safetensors --target rk3588 --target rk3566 \\
          --resolution 224,192,160 --calibration calib/ --validation val/ --fps 30
      edgevit sweep vit_tiny_patch16_224 deit_small_patch16_224 --target rk3588 --precision int8,float \\
          --calibration calib/ --validation val/ --max-ms 15
      edgevit sweep sweep.toml --out runs/night
      edgevit sweep sweep.toml --scheduler tcp://10.0.0.1:8786 --out /shared/night
    """
    from edgevit.console import progress
    from edgevit.sweeping.grid import points

    spec = spec_of(models, options)
    if dry_run:
        for point in points(spec):
            click.echo(point.name)
        return
    from edgevit.sweeping.sweep import sweep
    from edgevit.sweeping.workers import by_whole_paths, workers_for

    if scheduler is not None:
        spec, out = by_whole_paths(spec), out.absolute()

    with progress() as bars, workers_for(spec, out, jobs, scheduler, local, bars) as workers:
        swept = sweep(spec, out, bars, every=every, workers=workers)
    if as_json:
        click.echo(json.dumps(swept.to_json(), indent=1))
    else:
        show(swept, out)


def spec_of(models: tuple[str, ...], options: dict[str, Any]) -> Spec:
    """The spec of a TOML file, or of the command line. Raises InputError."""
    from edgevit.errors import InputError
    from edgevit.sweeping.spec import parse, read_spec

    if len(models) == 1 and models[0].endswith(".toml"):
        given = [name for name, value in options.items() if value and (name, value) not in DEFAULTS]
        if given:
            option = given[0].replace("_", "-").removesuffix("s" * (given[0] in ("targets", "precisions")))
            raise InputError(
                f"cannot use --{option} with {models[0]}", "the file says it all", "Write it into the file"
            )
        return read_spec(Path(models[0]))
    values = {name.replace("_", "-"): value for name, value in options.items()}
    for name in LISTS:
        key = name.replace("_", "-")
        if values.get(key) is not None:
            values[key] = [each.strip() for each in str(values[key]).split(",") if each.strip()]
    paths = {key: str(value) for key, value in values.items() if isinstance(value, Path)}
    what = "cannot sweep"
    if not values["targets"]:
        raise InputError(what, "--target was not given", "Name one or more boards")
    if values.get("validation") is None:
        raise InputError(what, "there are no validation images to compare by", "Pass --validation")
    return parse({**values, **paths, "models": list(models), "targets": list(values["targets"])}, what)


DEFAULTS = {("precisions", DEFAULT), ("seed", 0)}


def show(swept: Swept, out: Path) -> None:
    """The table, the answers, where the page is."""
    from edgevit.cli.console import print_table

    rows: list[tuple[str, ...]] = []
    for row in swept.rows:
        if row.state != "done":
            rows.append((row.point.variant, row.point.target, row.point.precision, row.state, "", "", "", ""))
            continue
        lost = "" if row.drop is None else f"{row.drop:.2f} [{row.low:.1f}, {row.high:.1f}]"
        time_ = "" if row.ms is None else f"{row.ms:.0f} [{row.ms_low:.0f}, {row.ms_high:.0f}]"
        cycles = "" if row.cycles is None else f"{row.cycles / 1e6:.2f}"
        size = "" if row.megabytes is None else f"{row.megabytes:.1f}"
        best = "best" if row.best else ""
        rows.append(
            (row.point.variant, row.point.target, row.point.precision, lost, time_, cycles, size, best)
        )
    told = [f"{row.point.name}: {row.why}" for row in swept.rows if row.state == "failed"]
    skipped = sum(row.state == "skipped" for row in swept.rows)
    notes = [
        "lost: against float on the same images, with 95 %; ms: a board's measurement or the estimate with its "
        "interval; best: no other of its target is better in both",
        *(
            [f"{skipped} points left out: they can't be among the best (sweep.json says why)"]
            if skipped
            else []
        ),
        *told,
        *swept.answers,
        f"every point: {out / 'sweep.html'}",
    ]
    columns = ("model", "target", "type", "lost [95 %]", "ms", "Mcycles", "MB", "")
    print_table(f"{len(swept.rows)} points", columns, rows, notes)
