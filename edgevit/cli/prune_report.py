"""`edgevit prune-report`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from edgevit.cli.options import FILE, SEED, cluster_options, output_options, preprocessing_options
from edgevit.targets.precisions import FLOAT


@click.command(name="prune-report")
@click.argument("model", default="demo")
@click.option(
    "--weights", type=FILE, help="Trained weights: .safetensors, or .pth loaded without running code."
)
@click.option("--calibration", type=FILE, help="Typical images, no labels needed: a folder, or a CSV.")
@click.option("--calibration-images", type=click.IntRange(4), help="Use this many; 512 at most by default.")
@click.option("--plot", type=FILE, help="Where the picture goes (.png or .svg); MODEL-heads.png by default.")
@click.option(
    "--seed", type=SEED, default=0, show_default=True, help="Decides which images a limit picks and hold out."
)
@preprocessing_options
@output_options
@cluster_options
@click.option("--json", "as_json", is_flag=True, help="Print the prices as JSON, and draw nothing unasked.")
def command(
    model: str,
    weights: Path | None,
    calibration: Path | None,
    calibration_images: int | None,
    plot: Path | None,
    seed: int,
    as_json: bool,
    scheduler: str | None,
    local: int | None,
    **options: Any,
) -> None:
    """Show what each attention head of MODEL is worth, and what removing the cheapest would cost.

    A head's price is the KL divergence to the whole model's predictions, on images held out of the fit, when
    that head alone goes: with the rest of its block refitted, as `convert --prune-heads` does, and without.
    Attention is found in any model's graph; heads can be removed from plain ViTs.

    \b
    Examples:
      edgevit prune-report
      edgevit prune-report deit_tiny_patch16_224 --weights my.safetensors --calibration calib/ --plot heads.svg
      edgevit prune-report vit_large_patch16_224 --calibration calib/ --scheduler tcp://10.0.0.1:8786
    """
    from edgevit.cluster.machines import machines_if_asked
    from edgevit.compression.head_importance import check_picture, plot_importance
    from edgevit.console import progress
    from edgevit.conversion.importance import importance
    from edgevit.files import refuse_to_overwrite
    from edgevit.request.job import by_whole_paths, file_of, make_job
    from edgevit.run.folder import open_run

    job = make_job(
        *(model, ("onnx",), (FLOAT,), None, None),
        weights=weights,
        calibration=calibration,
        calibration_images=calibration_images,
        seed=seed,
        **options,
    )
    files = [each for each in (file_of(model), weights, calibration) if each is not None and each.exists()]
    if scheduler is not None:
        job = by_whole_paths(job)
    out = None if as_json and plot is None else plot or Path(f"{job.name}-heads.png")
    if out is not None:
        check_picture(out)
        refuse_to_overwrite(out, [path for path in (weights, calibration) if path is not None])
    with (
        open_run(None) as run,
        progress() as bars,
        machines_if_asked(job.targets, files, run.store, scheduler, local, bars) as workers,
    ):
        found = importance(job, run, bars, workers)
    if out is not None:
        plot_importance(found, out)
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=1))
        return
    from edgevit.cli.prune_tables import print_importance

    print_importance(found, job.model, out)
