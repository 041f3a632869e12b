"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

Command = Callable[..., Any]
FILE = click.Path(path_type=Path)


def model_options(command: Command) -> Command:
    """MODEL, its weights, where it is to run and in which numbers."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def smaller_options(command: Command) -> Command:
    """How much smaller the model is to be."""
    for option in reversed(SMALLER):
        command = option(command)
    return command


SMALLER = (
    click.option("--resolution", metavar="SIZE|auto", help="Input size in pixels: 192, or 192x224 (HxW)."),
    click.option("--prune-heads", metavar="N|SHARE|auto", help="Attention heads to remove: 6, or 0.15."),
    click.option("--prune-mlp", metavar="N|SHARE|auto", help="MLP neurons to remove: 256, or 0.1."),
)

OPTIONS = (
    click.argument("model", default="demo"),
    click.option(
        "--weights", type=FILE, help="Trained weights: .safetensors, or .pth loaded without running code."
    ),
    click.option(
        "--target", "targets", multiple=True, metavar="NAME", help="A board or its TOML; repeatable."
    ),
    click.option(
        "--precision",
        "precisions",
        multiple=True,
        type=click.Choice(["float", "int8"]),
        default=("int8",),
        show_default=True,
        help="What the artefact computes in; repeatable.",
    ),
    click.option(
        "--without", multiple=True, metavar="REWRITE", help="Leave an exact rewrite out; repeatable."
    ),
)
