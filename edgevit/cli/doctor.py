"""`edgevit doctor`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from edgevit.cli.options import FILE

MARKS = {"ok": "ok", "note": "note", "fails": "FAILS"}


@click.command(name="doctor")
@click.option(
    "--target", "targets", multiple=True, metavar="NAME", help="A target that must work here; repeatable."
)
@click.option("--out", type=FILE, default=Path("runs"), show_default=True, help="Where runs will be written.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
@click.pass_context
def command(ctx: click.Context, targets: tuple[str, ...], out: Path, as_json: bool) -> None:
    """Look for what would fail on this machine, and say how to mend it.

    Exit code 1 if something would fail. A toolchain that isn't installed, or a client that isn't there, is only
    a note, unless --target needs it.

    \b
    Examples:
      edgevit doctor
      edgevit doctor --target rk3588 --target tflite
    """
    from edgevit.backends.registry import load_target
    from edgevit.console import progress
    from edgevit.toolchains.doctor import examine

    boards = [load_target(name) for name in targets]
    with progress(quiet=as_json) as bars:
        checks = examine(out, boards, bars)
    failed = [check for check in checks if check.state == "fails"]
    if as_json:
        click.echo(
            json.dumps({"fails": len(failed), "checks": [check.to_json() for check in checks]}, indent=1)
        )
    else:
        for check in checks:
            click.echo(f"{MARKS[check.state]:6}{check.name:18}{check.found}")
            if check.fix:
                click.echo(f"{'':24}{check.fix}")
        click.echo(f"{len(failed)} of {len(checks)} would fail" if failed else "nothing would fail")
    ctx.exit(1 if failed else 0)
