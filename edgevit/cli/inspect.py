"""`edgevit inspect`."""

from __future__ import annotations

import json
from typing import Any

import click

from edgevit.cli.options import model_options, output_options, smaller_options


@click.command(name="inspect")
@model_options
@smaller_options
@output_options
@click.option("--before-after", is_flag=True, help="Show the plain export beside edgevit's graph.")
@click.option("--top", default=10, show_default=True, help="How many of the costliest layers to show.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON, every layer included.")
def command(
    model: str,
    targets: tuple[str, ...],
    precisions: tuple[str, ...],
    before_after: bool,
    top: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Show where each op of MODEL runs and what it costs; no board and no images needed.

    Cycles are the vendor compiler's own estimate for one image on one core; it prices normalisation, softmax
    and copies at zero. A smaller model's heads and neurons are chosen by weight here: there are no images.

    \b
    Examples:
      edgevit inspect --target rk3588
      edgevit inspect deit_tiny_patch16_224 --weights my.safetensors --target rk3566 --before-after
      edgevit inspect deit_tiny_patch16_224 --weights my.safetensors --target tflite --json
    """
    from edgevit.cli.placement import print_record
    from edgevit.console import progress
    from edgevit.conversion.inspection import inspect
    from edgevit.request.job import make_job
    from edgevit.run.folder import open_run

    job = make_job(model, targets, precisions, None, None, images=False, **options)
    with open_run(None) as run, progress() as bars:
        records = inspect(job, run, bars, before_after=before_after)
    if as_json:
        click.echo(json.dumps(records, indent=1))
        return
    for record in records:
        print_record(record, top)
