"""`edgevit report`."""

from __future__ import annotations

import webbrowser
from pathlib import Path

import click

from edgevit.cli.options import FILE, TEXT


@click.command(name="report")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=FILE)
@click.option("--out", type=FILE, help="File to write; report.html in the run's folder by default.")
@click.option(
    "--format", "formats", multiple=True, type=click.Choice(["html", "md", "json"]), help="Repeatable."
)
@click.option(
    "--labels", type=TEXT, metavar="FILE", help="Class names: a text file, one per line, or imagenet-1k."
)
@click.option("--open", "show", is_flag=True, help="Open the page in the browser.")
def command(
    runs: tuple[Path, ...], out: Path | None, formats: tuple[str, ...], labels: str | None, show: bool
) -> None:
    """Write what a conversion lost and gained as one file for a colleague; several RUNs side by side.

    The HTML is self-contained: it opens from disk and fetches nothing. What `edgevit bench` measured in the
    run's folder is included.

    \b
    Examples:
      edgevit report runs/demo
      edgevit report runs/deit --labels imagenet-1k --open
      edgevit report runs/a runs/b --out compare.html
      edgevit report runs/deit --format html --format md --format json
    """
    from edgevit.files import refuse_to_overwrite
    from edgevit.images.labels import read_labels
    from edgevit.reporting.build import build, fitting_one
    from edgevit.reporting.html import word
    from edgevit.reporting.writing import destinations, write
    from edgevit.run.reading import read_run

    files = destinations(out, formats, [run.parent if run.is_file() else run for run in runs])
    read = [read_run(run, "cannot report on") for run in dict.fromkeys(runs)]
    for path in files.values():
        refuse_to_overwrite(path, [kept for run in read for kept in run.kept()])
    names = None if labels is None else fitting_one(read_labels(labels), read)
    report = build(read, names)
    write(report, files)
    for run in report.runs:
        for each in run.artefacts:
            click.echo(f"{run.name} {each.title}: {word(each.verdict).lower()}, {each.verdict.because}")
        for text in run.omissions:
            click.echo(f"left out: {text}", err=True)
    for path in files.values():
        click.echo(f"report: {path}")
    if show and "html" in files:
        webbrowser.open(files["html"].resolve().as_uri())
