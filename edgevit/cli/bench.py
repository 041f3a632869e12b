"""`edgevit bench`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgevit.cli.options import FILE, TEXT, Finite
from edgevit.targets.precisions import PRECISIONS

if TYPE_CHECKING:
    from edgevit.bench.choose import Artefact
    from edgevit.bench.connect import Place
    from edgevit.bench.prepare import Settings
    from edgevit.bench.transport import Transport
    from edgevit.progress import Progress


@click.command(name="bench")
@click.argument("what", metavar="RUN_OR_ARTEFACT", type=FILE)
@click.option(
    "--board",
    "where",
    required=True,
    metavar="WHERE",
    help="host, ssh://[user@]host[:port], adb[:serial], or a name from boards.toml.",
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
@click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output.")
def command(
    what: Path,
    where: str,
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
    as_json: bool,
) -> None:
    """Measure latency and accuracy of a run's artefacts, or of one file, on the board WHERE.

    Copies a runner, the artefact and images there, measures, and removes them; results go to RUN/bench. On the
    board it needs Python 3.7, numpy and a runtime: `edgevit boards probe WHERE` says what is missing. RKNN on a
    board is not yet run on silicon.

    \b
    Examples:
      edgevit bench runs/demo --board host
      edgevit bench runs/demo --board ssh://user@10.0.0.7 --target rk3588 --pin-clocks
      edgevit bench runs/demo --board adb --target tflite --benchmark-model ./benchmark_model
      edgevit bench runs/demo --board adb --target rv1106 --runner build/edgevit_runner
    """
    from edgevit.bench.choose import choose
    from edgevit.bench.connect import locate, reach
    from edgevit.bench.prepare import Settings
    from edgevit.cli.measurements import print_measurements
    from edgevit.console import progress

    settings = Settings(images, counts(threads), runs, seconds, pin_clocks, dump_tensors)
    place = locate(where)
    artefacts = choose(what, place, target, precision)
    transport = reach(place)
    try:
        with progress() as bars:
            records = [
                one(each, place, transport, settings, benchmark_model, runner, bars) for each in artefacts
            ]
    finally:
        transport.close()
    if as_json:
        click.echo(json.dumps(records, indent=1))
    else:
        print_measurements(records)


def one(
    artefact: Artefact,
    place: Place,
    transport: Transport,
    settings: Settings,
    binary: Path | None,
    runner: Path | None,
    progress: Progress,
) -> dict[str, Any]:
    """One artefact's measurement, by a runner or by the user's own benchmark_model."""
    from edgevit.bench import measure

    if binary is None:
        return measure.measure(artefact, place, transport, settings, progress, runner)
    return measure.by_benchmark_model(artefact, place, transport, binary, settings, progress)


def counts(threads: str | None) -> tuple[int, ...] | None:
    """Numbers of threads. Raises click.BadParameter."""
    if threads is None:
        return None
    words = [word.strip() for word in threads.split(",")]
    if not all(word.isdecimal() and 0 < int(word) <= 1024 for word in words):
        raise click.BadParameter("numbers like 1,2,4 are wanted", param_hint="--threads")
    return tuple(dict.fromkeys(int(word) for word in words))
