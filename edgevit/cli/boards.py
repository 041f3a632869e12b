"""`edgevit boards`: the profiles there are, what a board at hand is and lacks, a profile of your own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgevit.cli.options import FILE

if TYPE_CHECKING:
    from edgevit.targets.facts import Facts, Missing
    from edgevit.targets.profiles import Board


def backend_names() -> list[str]:
    """Names of the backends, read when they are needed: `edgevit --help` imports this file."""
    from edgevit.backends.registry import backends

    return [each.name for each in backends()]


class BackendName(click.ParamType):  # type: ignore[type-arg]
    """A backend's name."""

    name = "backend"

    def get_metavar(self, *_: Any, **__: Any) -> str:
        return f"[{'|'.join(backend_names())}]"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value not in backend_names():
            self.fail(f"{value!r} is not one of {', '.join(backend_names())}", param, ctx)
        return value


@click.group()
def command() -> None:
    """List board profiles, look at a board, write a profile of your own.

    \b
    Examples:
      edgevit boards list
      edgevit boards probe ssh://pi@10.0.0.7
      edgevit boards probe adb
      edgevit boards new my-board --backend rknn
    """


@command.command(name="list")
@click.option("--board", "extra", type=FILE, multiple=True, help="Also a profile of yours; repeatable.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
def list_(extra: tuple[Path, ...], as_json: bool) -> None:
    """Show the profiles that --target takes."""
    from edgevit.backends.registry import load_target
    from edgevit.targets.profiles import shipped

    boards = [load_target(name) for name in (*shipped("boards"), *map(str, extra))]
    if as_json:
        click.echo(json.dumps([board.model_dump() for board in boards], indent=1))
        return
    for source in dict.fromkeys(board.source for board in boards):
        click.echo(f"limits from {source}")
        for board in boards:
            if board.source == source:
                click.echo(
                    f"  {board.id:14} {board.backend:12} {', '.join(board.precisions):12} {board.name}"
                )


@command.command()
@click.argument("where")
@click.option("--python", help="The board's Python to look into; that of boards.toml, else python3.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
def probe(where: str, python: str | None, as_json: bool) -> None:
    """Look at the board WHERE: host, ssh://[user@]host[:port], adb[:serial], or a name from boards.toml.

    Says what it is, which profile fits, what is missing and how to install it. Changes nothing there.
    """
    from edgevit.backends.registry import load_target
    from edgevit.bench import advice
    from edgevit.bench.connect import locate, reach
    from edgevit.bench.probe import probe as look
    from edgevit.targets.profiles import shipped

    place = locate(where)
    transport = reach(place)
    try:
        facts = look(transport, python=python or place.python or "python3")
    finally:
        transport.close()
    boards = advice.fitting(facts, [load_target(name) for name in shipped("boards")])
    lacks = advice.missing(facts, boards)
    if as_json:
        found = {"facts": facts.to_json(), "profiles": [board.id for board in boards]}
        click.echo(json.dumps({**found, "missing": [lack.to_json() for lack in lacks]}, indent=1))
        return
    print_probe(facts, boards, lacks)


@command.command()
@click.argument("name")
@click.option(
    "--backend",
    type=BackendName(),
    default=lambda: backend_names()[0],
    help="Who makes and runs artefacts; the first where none is said.",
)
def new(name: str, backend: str) -> None:
    """Write a commented profile NAME.toml here, to fill in and use with --target NAME.toml."""
    from edgevit.bench.template import write_template

    path = write_template(name, backend, Path.cwd())
    click.echo(f"{path.name}: fill it in, then use --target {path.name}")


@command.command()
@click.option("--out", type=FILE, required=True, help="The folder that takes its source.")
def runner(out: Path) -> None:
    """Write the source of a runner for boards without Python (RV1103, RV1106, Android), to build for yours.

    One file of C, and a CMakeLists.txt whose first lines say how; then
    edgevit bench ... --runner build/edgevit_runner.
    """
    from edgevit.bench.native_runner import write_sources

    names = write_sources(out)
    click.echo(f"{out}: {', '.join(names)}; how to build it is in the first lines of CMakeLists.txt")


def print_probe(facts: Facts, boards: list[Board], lacks: list[Missing]) -> None:
    """What was found, one line a fact."""
    lines = {
        "board": facts.model,
        "system": " ".join(part for part in (facts.os, f"kernel {facts.kernel}", facts.machine) if part),
        "processor": f"{facts.cores or '?'} cores {facts.cpu}".strip(),
        "memory": f"{facts.memory_mb} MB" if facts.memory_mb else "unknown",
        "NPU": npu(facts),
        "Python": python_line(facts),
        "clocks": "can be pinned"
        if facts.may_pin_clocks
        else "can't be pinned: not root, no sudo without password",
        "profiles": ", ".join(board.id for board in boards) or "none; write one: edgevit boards new NAME",
    }
    for name, value in lines.items():
        click.echo(f"{name:10} {value}")
    for lack in lacks:
        click.echo(f"{'missing':10} {lack}")
    if not lacks:
        click.echo(f"{'missing':10} nothing")


def npu(facts: Facts) -> str:
    """The NPU's driver and library."""
    if not (facts.npu_driver or facts.npu_node or facts.npu_library):
        return "none found"
    driver = facts.npu_driver or ("present, version not readable" if facts.npu_node else "none")
    library = facts.npu_library_version or ("version not readable" if facts.npu_library else "none")
    return f"driver {driver}, librknnrt {library}"


def python_line(facts: Facts) -> str:
    """The board's Python and the runtimes in it."""
    if facts.python is None:
        return "none"
    modules = ", ".join(f"{name} {version}" for name, version in facts.modules.items())
    return f"{facts.python} with {modules or 'none of the runtimes'}"
