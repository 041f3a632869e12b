"""`edgevit toolchain`: the private environments of the vendors' converters."""

from __future__ import annotations

import json

import click


@click.group()
def command() -> None:
    """Install, list or remove the vendors' converters.

    Each lives in an environment of its own; yours is never changed.

    \b
    Examples:
      edgevit toolchain install rknn litert
      edgevit toolchain list
    """


@command.command()
@click.argument("names", nargs=-1, required=True)
def install(names: tuple[str, ...]) -> None:
    """Install toolchains by NAME (rknn, litert); quick when already there."""
    from edgevit.console import progress
    from edgevit.toolchains import installation

    for name in names:
        with progress() as bars:
            installation.install(name, bars)
        click.echo(f"{name}: ready")


@command.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
def list_(as_json: bool) -> None:
    """Show each toolchain, its version and its state."""
    from edgevit.toolchains import environment

    states = environment.list_toolchains()
    if as_json:
        click.echo(json.dumps([state.to_json() for state in states], indent=1))
        return
    for state in states:
        click.echo(f"{state.name:8} {state.summary}")


@command.command()
@click.argument("names", nargs=-1, required=True)
def remove(names: tuple[str, ...]) -> None:
    """Delete toolchains by NAME and free their disk space."""
    from edgevit.toolchains import installation

    for name in names:
        installation.remove(name)
        click.echo(f"{name}: removed")
