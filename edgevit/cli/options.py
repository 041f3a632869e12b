"""Options that several commands share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from edgevit.targets.precisions import DEFAULT, PRECISIONS

Command = Callable[..., Any]


class NonEmpty(click.ParamType):  # type: ignore[type-arg]
    """Text that is there: an unset variable in a script must not mean the current folder or a default."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, str) and not value.strip():
            self.fail("it is empty; leave the option out, or give a value", param, ctx)
        return value


class FilePath(NonEmpty):
    """A path, whether or not it exists yet."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        return Path(super().convert(value, param, ctx))


class Finite(click.FloatRange):
    """A number in a range, neither infinite nor "not a number": comparisons with nan are always false."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


TEXT, FILE = NonEmpty(), FilePath()
SEED = click.IntRange(0, 2**32 - 1)


def with_options(command: Command, options: Sequence[Callable[[Command], Command]]) -> Command:
    """A command with options, in the order in which its help shows them."""
    for option in reversed(options):
        command = option(command)
    return command


def model_options(command: Command) -> Command:
    """MODEL, its weights, where it is to run and in which numbers."""
    return with_options(command, OPTIONS)


def smaller_options(command: Command) -> Command:
    """How much smaller the model is to be."""
    return with_options(command, SMALLER)


def output_options(command: Command) -> Command:
    """Which of a model's outputs are wanted, and what they are."""
    return with_options(command, OUTPUTS)


OUTPUTS = (
    click.option(
        "--output",
        "outputs",
        type=TEXT,
        multiple=True,
        metavar="[NAME:]KIND",
        help="An output to keep, and what it is: embedding, dense, segmentation, depth, tokens, boxes, scores, "
        "tensor, logits; repeatable. embedding of a classifier is what its last layer reads; features "
        "are maps of the last stages of a model of timm's.",
    ),
    click.option("--normalize", is_flag=True, help="Divide an embedding by its length, inside the model."),
)


def cluster_options(command: Command) -> Command:
    """Which machines share the work."""
    return with_options(command, CLUSTER)


CLUSTER = (
    click.option(
        "--scheduler", type=TEXT, metavar="tcp://HOST:PORT", help="Share the work on a Dask cluster."
    ),
    click.option(
        "--local", type=click.IntRange(1), help="Share it among so many Dask workers on this machine."
    ),
)


def preprocessing_options(command: Command) -> Command:
    """How the model's images are prepared, where it doesn't say so itself."""
    return with_options(command, PREPROCESSING)


PREPROCESSING = (
    click.option("--mean", metavar="R,G,B", help="Subtracted, in units of 0..1: 0.5, or 0.485,0.456,0.406."),
    click.option("--std", metavar="R,G,B", help="Divided by, in units of 0..1: 0.5, or 0.229,0.224,0.225."),
    click.option(
        "--input-size", metavar="SIZE", help="Of the model's input in pixels: 224, or 192x224 (HxW)."
    ),
    click.option(
        "--crop",
        metavar="SHARE|none|squash|border",
        help="How pictures are fitted: the share of the shorter side that is kept, or no regard to their shape.",
    ),
    click.option(
        "--interpolation", metavar="FILTER", help="bicubic, bilinear, nearest, lanczos, box, hamming."
    ),
    click.option(
        "--channels", type=click.Choice(["RGB", "BGR"]), help="The order the model was trained with."
    ),
    click.option(
        "--preprocessing",
        type=TEXT,
        metavar="FILE|NAME",
        help="All of it: a TOML or JSON file, a preprocessor_config.json, or the name of torchvision's weights.",
    ),
    click.option(
        "--classes", type=FILE, help="A text file with one class name a line, in the outputs' order."
    ),
)

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
        "--target",
        "targets",
        type=TEXT,
        multiple=True,
        metavar="NAME",
        help="A board or its TOML; repeatable.",
    ),
    click.option(
        "--precision",
        "precisions",
        multiple=True,
        type=click.Choice(list(PRECISIONS)),
        default=(DEFAULT,),
        show_default=True,
        help="What the artefact computes in; repeatable.",
    ),
    click.option(
        "--toolkit",
        "toolkits",
        type=TEXT,
        multiple=True,
        metavar="NAME@VERSION",
        help="Another release of a vendor's converter, to match a board's runtime: rknn@2.3.2.",
    ),
    click.option(
        "--without",
        type=TEXT,
        multiple=True,
        metavar="REWRITE",
        help="Leave an exact rewrite out; repeatable.",
    ),
)
