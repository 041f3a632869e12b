"""`edgevit convert`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgevit.cli.options import (
    FILE,
    SEED,
    TEXT,
    Finite,
    cluster_options,
    model_options,
    output_options,
    preprocessing_options,
    smaller_options,
)

if TYPE_CHECKING:
    from edgevit.request.job import Job


@click.command(name="convert")
@model_options
@smaller_options
@preprocessing_options
@output_options
@click.option("--recover", is_flag=True, help="Distil the smaller model from the original, without labels.")
@click.option("--recover-images", type=FILE, help="Any pictures to recover on; the calibration images else.")
@click.option("--recover-minutes", type=Finite(0, min_open=True), help="At most; 10 by default.")
@click.option("--calibration", type=FILE, help="Typical images for int8: a folder, or a CSV of path[,label].")
@click.option(
    "--validation", type=FILE, help="Labelled images to measure on: class folders, or a CSV path,label."
)
@click.option(
    "--metric",
    type=TEXT,
    metavar="FILE.py:FUNCTION",
    help="Your own: function(outputs, labels) gives one score an image, more being better.",
)
@click.option(
    "--text-embeddings",
    type=FILE,
    help="Classes as embeddings of texts, .npy [classes, width]: zero-shot accuracy of an image embedding.",
)
@click.option(
    "--label-maps",
    type=FILE,
    help="A folder of PNGs of class numbers, named as the validation images: mean IoU of a segmentation.",
)
@click.option(
    "--annotations",
    type=FILE,
    help="A COCO file of the validation images' boxes: mean average precision of a detector.",
)
@click.option("--recipe", type=TEXT, metavar="NAME", help="Quantization recipe or a path to its TOML.")
@click.option(
    "--calibration-images", type=click.IntRange(1), help="Use this many; the recipe's number by default."
)
@click.option("--validation-images", type=click.IntRange(1), help="Use this many; all by default.")
@click.option(
    "--max-drop",
    type=Finite(0),
    help="Exit code 4 if more is lost than this: points of top-1, or what the table counts as lost.",
)
@click.option("--plan", type=FILE, help="A precision plan, as a run writes it (.plan.toml), edited or not.")
@click.option(
    "--search-minutes",
    type=Finite(0),
    help="Time to find what must stay in 16 bits; the recipe's by default, 0 for none.",
)
@click.option(
    "--delegate",
    type=click.Choice(["cpu", "npu"]),
    default="cpu",
    show_default=True,
    help="What runs a .tflite: the CPU, or an NPU, which takes integers only.",
)
@click.option("--out", type=FILE, help="Run directory; runs/MODEL by default.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Decides which images a limit picks.")
@click.option("--side-by-side", type=click.IntRange(1), help="Targets at once; by default as memory allows.")
@cluster_options
@click.option("--dry-run", is_flag=True, help="Print what would be done, and do nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as JSON on standard output.")
def command(
    model: str,
    targets: tuple[str, ...],
    precisions: tuple[str, ...],
    recipe: str | None,
    out: Path | None,
    dry_run: bool,
    as_json: bool,
    scheduler: str | None,
    local: int | None,
    **options: Any,
) -> None:
    """Convert MODEL for one or more targets and measure what was lost.

    MODEL is a timm name, torchvision:NAME, a Hugging Face folder, file.py:function, or an .onnx file. Without
    it, a small bundled model and its images are used.

    \b
    Examples:
      edgevit convert --target rk3588
      edgevit convert deit_tiny_patch16_224 --weights my.safetensors \\
          --calibration calib/ --validation val/ --target rk3588 --target tflite --max-drop 0.5
      edgevit convert torchvision:vit_b_16 --weights vit.pth --target onnx --precision float \\
          --validation val.csv
      edgevit convert deit_tiny_patch16_224 --weights my.safetensors --calibration calib/ \\
          --validation val/ --target rk3588 --resolution 192 --prune-heads 3 --recover
      edgevit convert net.py:build --weights net.pth --calibration calib/ --validation val/ \\
          --target rk3588 --mean 0.5 --std 0.5 --crop squash --classes labels.txt
      edgevit convert clip-vit-base-patch32/ --calibration photos/ --validation more-photos/ \\
          --target rk3588 --output embedding
      edgevit convert vit_base_patch16_224 --weights vit.pth --calibration calib/ --validation 50k.csv \\
          --target rk3588 --scheduler tcp://10.0.0.1:8786
    """
    from edgevit.console import progress
    from edgevit.request.job import make_job

    job = make_job(model, targets, precisions, recipe, out, **options)
    if dry_run:
        show_plan(job, as_json)
        return
    from edgevit.cli.summary import print_summary
    from edgevit.cluster.machines import machines_if_asked
    from edgevit.conversion.manifest import refuse_incomplete, refuse_missed_gate
    from edgevit.conversion.whole_run import run_job
    from edgevit.run.store import shared_store

    store = shared_store()
    with (
        progress() as bars,
        machines_if_asked(job.targets, [], store, scheduler, local, bars) as workers,
    ):
        manifest, outcomes = run_job(job, bars, command=sys.argv[1:], workers=workers)
    if as_json:
        click.echo(json.dumps(manifest.to_json(), indent=1))
    else:
        print_summary(manifest, job.out)
    refuse_incomplete(manifest, outcomes)
    refuse_missed_gate(manifest)


def show_plan(job: Job, as_json: bool) -> None:
    """Print what a conversion would do, and do nothing."""
    from edgevit.cli.summary import print_plan
    from edgevit.console import progress
    from edgevit.conversion.pipeline import planned
    from edgevit.run.folder import open_run

    with open_run(job.out, dry=True) as run, progress() as bars:
        print_plan(job, list(planned(job, run, bars)), as_json)
