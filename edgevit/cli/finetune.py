"""`edgevit finetune`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from edgevit.cli.options import FILE, SEED, Finite, preprocessing_options


@click.command(name="finetune")
@click.argument("model")
@click.option("--weights", type=FILE, help="What to start from; the model's pretrained weights else.")
@click.option(
    "--train", required=True, type=FILE, help="Pictures to learn from: class folders, or a CSV path,label."
)
@click.option("--validation", type=FILE, help="Other labelled pictures, only to measure the result on.")
@click.option(
    "--freeze",
    default="backbone",
    show_default=True,
    metavar="backbone|N|none",
    help="What stays as it is: all but the classifier, the first N blocks, or nothing.",
)
@click.option(
    "--lora",
    type=click.IntRange(1, 1024),
    metavar="RANK",
    help="Adapters of this rank (8, 16) learn in place of the blocks: for large models. Needs peft.",
)
@click.option(
    "--teacher", metavar="MODEL", help="A better model of the same classes, to learn its answers too."
)
@click.option(
    "--teacher-weights", type=FILE, help="The teacher's weights, where its name does not bring them."
)
@click.option("--epochs", type=click.IntRange(1), help="At most; 30 by default.")
@click.option("--minutes", type=Finite(0, min_open=True), help="At most; 30 by default.")
@preprocessing_options
@click.option(
    "--seed", type=SEED, default=0, show_default=True, help="Decides what is held out, and all views."
)
@click.option("--out", type=FILE, help="Folder of the fine-tuned model; runs/MODEL-TRAIN by default.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on standard output.")
def command(model: str, as_json: bool, **options: Any) -> None:
    """Teach MODEL the classes of your own pictures.

    MODEL is a timm name, torchvision:vit_b_16, file.py:function, a Hugging Face folder, or a folder of an
    earlier fine-tuning. A part of the pictures is held out to tell when to stop; validation pictures are never
    learnt from. Killed, it goes on where it was when it is started again. The folder it leaves is a MODEL for
    convert, inspect and finetune.

    \b
    Examples:
      edgevit finetune deit_tiny_patch16_224 --train defects/train --validation defects/test
      edgevit finetune deit_tiny_patch16_224 --train flowers/ --freeze none --minutes 60 --out runs/flowers
      edgevit finetune deit_tiny_patch16_224 --train flowers/ --freeze none --teacher runs/flowers-base
      accelerate launch --num_processes 4 -m edgevit finetune vit_base_patch16_224 --train flowers/ --lora 16
      edgevit convert runs/flowers --calibration flowers/ --validation other/ --target rk3588
    """
    from edgevit.console import progress
    from edgevit.finetuning.finetune import finetune
    from edgevit.finetuning.job import make_finetune_job
    from edgevit.finetuning.picture import draw
    from edgevit.finetuning.team import team

    job = make_finetune_job(model, **options)
    first = team().first
    with progress() as bars:
        result = finetune(job, bars)
        if not first:
            return
        draw(result, job.out)
    if as_json:
        click.echo(json.dumps(result.to_json(), indent=1))
        return
    print_result(result, job.train)


def print_result(result: Any, train: Path) -> None:
    """What was learnt, how well, and what to do next."""
    from edgevit.metrics.classification import wilson

    measured = result.validation or result.held_out
    where = "validation" if result.validation else "held-out"
    right = result.validation_right if result.validation else result.held_out_right
    low, high = wilson(round(right * measured), measured)
    click.echo(
        f"{len(result.names)} classes, {result.learnt} pictures learnt from, {result.held_out} held out"
    )
    click.echo(
        f"{100 * right:.2f} % of {measured} {where} pictures right [{100 * low:.1f}, {100 * high:.1f}]"
    )
    click.echo(f"{result.stopped}, {result.seconds / 60:.1f} minutes{', resumed' if result.resumed else ''}")
    click.echo(f"curves and confusion matrix: {result.folder / 'training.png'}")
    click.echo(
        f"next: edgevit convert {result.folder} --calibration {train} --validation ... --target rk3588"
    )
