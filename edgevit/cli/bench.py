"""`edgevit bench`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from edgevit.cli.options import FILE, TEXT, Finite, cluster_options
from edgevit.targets.precisions import PRECISIONS


@click.command(name="bench")
@click.argument("what", metavar="RUN_OR_ARTEFACT", type=FILE)
@click.option(
    "--board",
    "where",
    required=True,
    multiple=True,
    metavar="WHERE",
    help="host, ssh://[user@]host[:port], adb[:serial], or a name from boards.toml; repeatable.",
)
@click.option("--target", type=TEXT, metavar="NAME", help="Which of the run's artefacts.")
@click.option("--precision", type=click.Choice(list(PRECISIONS)), help="Which of the run's artefacts.")
@click.option("--images", type=click.IntRange(0), help="Validation images for accuracy; all by default.")
@click.option(
    "--threads", metavar="N,N", help="Threads to try on processors, e.g. 1,4; all powers of two by default."
)
@click.option("--runs", default=50, show_default=True, type=click.IntRange(1), help="At least this many.")
@click.option("--seconds", default=10.0, show_default=True, type=Finite(0), help="And for at least so long.")
@click.option("--pin-clocks", is_flag=True, help="Fix the board's clocks while measuring; needs root there.")
@click.option(
    "--dump-tensors", is_flag=True, help="Keep every inner tensor of the first image (.tflite, .onnx)."
)
@click.option(
    "--benchmark-model",
    type=FILE,
    metavar="PATH",
    help="A benchmark_model binary for the board: latency of a .tflite where there is no Python.",
)
@click.option(
    "--runner",
    type=FILE,
    metavar="PATH",
    help="A runner built for a board without Python: edgevit boards runner writes its source.",
)
@cluster_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output.")
def command(
    what: Path,
    where: tuple[str, ...],
    target: str | None,
    precision: str | None,
    images: int | None,
    threads: str | None,
    runs: int,
    seconds: float,
    pin_clocks: bool,
    dump_tensors: bool,
    benchmark_model: Path | None,
    runner: Path | None,
    scheduler: str | None,
    local: int | None,
    as_json: bool,
) -> None:
    """Measure latency and accuracy of a run's artefacts, or of one file, on the board WHERE.

    Copies a runner, the artefact and images there, measures, and removes them; results go to RUN/bench. On the
    board it needs Python 3.7, numpy and a runtime: `edgevit boards probe WHERE` says what is missing. RKNN on a
    board is not yet run on silicon. Several boards are measured side by side, one never by two commands at once.

    \b
    Examples:
      edgevit bench runs/demo --board host
      edgevit bench runs/demo --board ssh://user@10.0.0.7 --target rk3588 --pin-clocks
      edgevit bench runs/demo --board adb --target tflite --benchmark-model ./benchmark_model
      edgevit bench runs/demo --board adb --target rv1106 --runner build/edgevit_runner
      edgevit bench runs/demo --board desk-3588 --board desk-3566
    """
    from edgevit.bench.prepare import Settings
    from edgevit.bench.several import Asked, measure_all
    from edgevit.cli.measurements import print_measurements
    from edgevit.cluster.machines import machines_if_asked
    from edgevit.console import progress

    settings = Settings(images, counts(threads), runs, seconds, pin_clocks, dump_tensors)
    folder = what if what.is_dir() else what.parent
    asked = Asked(
        what if scheduler is None else what.absolute(), target, precision, settings, benchmark_model, runner
    )
    with progress() as bars, machines_if_asked((), [what], folder, scheduler, local, bars) as workers:
        found = measure_all(where, asked, bars, workers)
    records = [record for each in found if each.error is None for record in each.value]
    if as_json:
        click.echo(json.dumps(records, indent=1))
    elif records:
        print_measurements(records)
    errors = [each.error for each in found if each.error is not None]
    for error in errors[:-1]:
        click.echo(f"error: {error}", err=True)
    if errors:
        raise errors[-1]


def counts(threads: str | None) -> tuple[int, ...] | None:
    """Numbers of threads. Raises click.BadParameter."""
    if threads is None:
        return None
    words = [word.strip() for word in threads.split(",")]
    if not all(word.isdecimal() and 0 < int(word) <= 1024 for word in words):
        raise click.BadParameter("numbers like 1,2,4 are wanted", param_hint="--threads")
    return tuple(dict.fromkeys(int(word) for word in words))
