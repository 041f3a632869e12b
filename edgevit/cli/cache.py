"""`edgevit cache`."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from edgevit.cli.options import Finite

UNUSED_DAYS = 30.0


@click.group(name="cache", invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output.")
@click.pass_context
def command(context: click.Context, as_json: bool) -> None:
    """Show where finished steps are kept and how much they take.

    Conversions of one model share their steps. Removing steps is safe: a run that needs one makes it again, and
    finished runs keep what they show.

    \b
    Examples:
      edgevit cache
      edgevit cache clean
      edgevit cache clean --older-than 7
      edgevit cache clean --all
    """
    if context.invoked_subcommand is not None:
        return
    from edgevit.run.store import VARIABLE, contents, shared_store

    found = contents(shared_store())
    if as_json:
        click.echo(json.dumps({**asdict(found), "folder": str(found.folder)}, indent=1))
        return
    click.echo(
        f"{found.folder}: {found.steps} steps, {found.bytes / 1e6:.1f} MB (another folder: {VARIABLE})"
    )
    if found.steps:
        click.echo(f"longest unused: {found.oldest_days:.1f} days; edgevit cache clean removes what is old")


@command.command(name="clean")
@click.option(
    "--older-than",
    type=Finite(0),
    default=UNUSED_DAYS,
    show_default=True,
    help="Days that a step has not been used.",
)
@click.option("--all", "everything", is_flag=True, help="Remove every step, however new.")
def clean_command(older_than: float, everything: bool) -> None:
    """Remove steps that were not used for a while."""
    from edgevit.run.store import clean, shared_store

    gone = clean(shared_store(), 0.0 if everything else older_than)
    click.echo(f"removed {gone.steps} steps, {gone.bytes / 1e6:.1f} MB from {gone.folder}")
