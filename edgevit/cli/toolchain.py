"""`edgevit toolchain`: the private environments of the vendors' converters."""

from __future__ import annotations

import json
from pathlib import Path

import click

from edgevit.cli.options import FILE, TEXT


@click.group()
def command() -> None:
    """Install, list or remove the vendors' converters.

    Each lives in an environment of its own; yours is never changed.

    \b
    Examples:
      edgevit toolchain install rknn litert
      edgevit toolchain install rknn --version 2.3.2     beside the usual release: convert --toolkit rknn@2.3.2
      edgevit toolchain download rknn --out wheels       where there is a network, and
      edgevit toolchain install rknn --offline wheels    where there is none
      edgevit toolchain list
    """


def versioned(names: tuple[str, ...], version: str | None) -> list[str]:
    """Toolchains as asked for, with a release where one is named."""
    if version is not None and len(names) != 1:
        raise click.UsageError("--version is of one toolchain; name one")
    return [name if version is None else f"{name}@{version}" for name in names]


VERSION = click.option("--version", type=TEXT, help="A release other than the usual one.")


@command.command()
@click.argument("names", nargs=-1, required=True)
@VERSION
@click.option(
    "--offline", type=click.Path(exists=True, file_okay=False, path_type=Path), help="A folder of packages."
)
def install(names: tuple[str, ...], version: str | None, offline: Path | None) -> None:
    """Install toolchains by NAME (rknn, litert); quick when already there."""
    from edgevit.console import progress
    from edgevit.toolchains import installation

    for name in versioned(names, version):
        with progress() as bars:
            installation.install(name, bars, wheels=offline)
        click.echo(f"{name}: ready")


@command.command()
@click.argument("names", nargs=-1, required=True)
@VERSION
@click.option("--out", type=FILE, required=True, help="The folder that takes the packages.")
def download(names: tuple[str, ...], version: str | None, out: Path) -> None:
    """Collect toolchains' packages by NAME, to install them on a machine without a network."""
    from edgevit.console import progress
    from edgevit.toolchains import installation

    for name in versioned(names, version):
        with progress() as bars:
            python = installation.download(name, out, bars)
        megabytes = sum(path.stat().st_size for path in out.iterdir() if path.is_file()) / 1e6
        click.echo(f"{name}: packages for Python {python.minor} in {out} ({megabytes:.0f} MB there)")


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
        click.echo(f"{state.name:10} {state.summary}")


@command.command()
@click.argument("names", nargs=-1, required=True)
@VERSION
def remove(names: tuple[str, ...], version: str | None) -> None:
    """Delete toolchains by NAME, every release of them or one, and free their disk space."""
    from edgevit.toolchains import installation

    for name in versioned(names, version):
        installation.remove(name)
        click.echo(f"{name}: removed")
