"""`edgevit try`."""

from __future__ import annotations

from pathlib import Path

import click

from edgevit.cli.options import FILE, TEXT

HERE = "127.0.0.1"


@click.command(name="try")
@click.argument("run", type=FILE)
@click.option(
    "--port", type=click.IntRange(1, 65535), default=8642, show_default=True, help="Where it listens."
)
@click.option(
    "--host", type=TEXT, default=HERE, show_default=True, help="0.0.0.0: for all that reach this machine."
)
@click.option("--open/--no-open", "opens", default=True, help="Open the page in a browser.")
def command(run: Path, port: int, host: str, opens: bool) -> None:
    """Show a local page on which to drop pictures and see what a RUN's artefacts say of them.

    Float beside int8, where the float model looks, the time taken on this machine. A .rknn needs its board and is
    left out. Only this machine sees the page unless --host says otherwise. Needs Flask: pip install edgevit[try].

    \b
    Examples:
      edgevit try runs/deit
      edgevit try runs/deit --port 9000 --no-open
    """
    import logging
    import webbrowser

    from edgevit.errors import InputError
    from edgevit.trying.answers import Answers
    from edgevit.trying.page import application

    app = application(Answers(run))
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    try:
        server = make_server(host, port, app, threaded=True)
    except (OSError, SystemExit):  # werkzeug exits where the port is taken
        raise InputError(
            f"cannot listen on {host}:{port}",
            "another program does, or it is not allowed",
            "Choose another --port",
        ) from None
    address = f"http://{host}:{port}/"
    if host != HERE:
        click.echo("warning: every machine that reaches this address can use the page", err=True)
    click.echo(f"{address}  (Ctrl-C ends it)")
    if opens:
        webbrowser.open(address)
    server.serve_forever()
