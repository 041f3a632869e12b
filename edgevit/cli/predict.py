"""`edgevit predict`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from edgevit.cli.options import FILE, TEXT
from edgevit.targets.precisions import PRECISIONS


@click.command(name="predict")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...", type=FILE)
@click.option("--model", required=True, type=FILE, help="A run directory, or an artefact of one.")
@click.option(
    "--target", type=TEXT, metavar="NAME", help="Which of the run's artefacts; torch is the float model."
)
@click.option("--precision", type=click.Choice(list(PRECISIONS)), help="Which of the run's artefacts.")
@click.option("--like", type=FILE, metavar="RUN", help="The run a lone artefact came from.")
@click.option("--top", default=5, show_default=True, type=click.IntRange(1), help="Classes to show.")
@click.option(
    "--labels", type=TEXT, metavar="FILE", help="Class names: a text file, one per line, or imagenet-1k."
)
@click.option("--attention", type=FILE, help="Draw where the float model looks: a .png, .pdf or .svg file.")
@click.option("--save", type=FILE, metavar="DIR", help="Write the outputs there: .npy, and maps as pictures.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output.")
def command(
    images: tuple[Path, ...],
    model: Path,
    target: str | None,
    precision: str | None,
    like: Path | None,
    top: int,
    labels: str | None,
    attention: Path | None,
    save: Path | None,
    as_json: bool,
) -> None:
    """Show the likeliest classes of each IMAGE, or what else the model gives, by an artefact that runs here.

    That is .onnx, .tflite, and the float model with --target torch; a .rknn needs its board. The images are
    prepared as the run's were.

    \b
    Examples:
      edgevit predict cat.jpg --model runs/deit
      edgevit predict *.jpg --model runs/deit --target torch --attention where.png
      edgevit predict photos/*.jpg --model runs/clip --save embeddings
      edgevit predict cat.jpg --model deit-tflite-int8.tflite --like runs/deit --top 1 --json
    """
    from edgevit.cli.predictions import (
        check_attention,
        draw_attention,
        print_predictions,
        refuse_unread,
        with_labels,
    )
    from edgevit.console import progress
    from edgevit.prediction import predict

    chosen = predict.choose(model, target=target, precision=precision, like=like)
    source = with_labels(chosen, labels)
    if attention is not None:
        check_attention(attention, [*images, *chosen.run.kept()])
    with progress() as bars:
        answered = predict.predict(source, images, top=top, progress=bars)
        found, pixels = answered.found, answered.pixels
        if attention is not None:
            draw_attention(source, found, pixels, attention, bars)
        saved = predict.save(source, answered, save) if save is not None else []
    if as_json:
        records = [asdict(each) for each in found]
        click.echo(json.dumps({"model": source.title, "how": "host CPU", "images": records}, indent=1))
    else:
        print_predictions(source, found, attention, saved)
    refuse_unread(found)
