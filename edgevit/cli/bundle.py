"""`edgevit bundle`."""

from __future__ import annotations

from pathlib import Path

import click

from edgevit.cli.options import FILE, TEXT
from edgevit.targets.precisions import PRECISIONS


@click.command(name="bundle")
@click.argument("run", type=FILE)
@click.option("--target", type=TEXT, metavar="NAME", help="Which of the run's artefacts, if it made several.")
@click.option("--precision", type=click.Choice(list(PRECISIONS)), help="Which of the run's artefacts.")
@click.option("--out", type=FILE, help="A folder, or a file ending in .zip; beside the artefact by default.")
def command(run: Path, target: str | None, precision: str | None, out: Path | None) -> None:
    """Put together what a device needs: the artefact of a RUN, a program of one file, a self-test, a model card.

    The program needs numpy, Pillow or OpenCV, and the target's runtime; edgevit itself is not needed there. Eight
    of the run's validation images go along for the self-test. The same run gives the same bytes.

    \b
    Examples:
      edgevit bundle runs/deit --target rk3588
      edgevit bundle runs/deit --target tflite --precision int8 --out deit.zip
      python runs/deit/deit-rk3588-int8-bundle/run.py --self-test      (on the board)
    """
    from edgevit.bundling.make import make_bundle

    path = make_bundle(run, out, target=target, precision=precision)
    click.echo(f"bundle: {path}")
    click.echo("on the device: python run.py --self-test")
