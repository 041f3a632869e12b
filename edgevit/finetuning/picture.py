"""Curves of a training and its confusion matrix, as one picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgevit.files import atomic_path

if TYPE_CHECKING:
    from edgevit.finetuning.finetune import Finetuned

PICTURE = "training.png"
NAMED = 30  # classes up to which each has its name on the axes
SHOWN = 20  # characters of a name


def draw(result: Finetuned, folder: Path) -> None:
    """Write training.png: losses and held-out accuracy by epoch, where there were any, and the confusion matrix."""
    from matplotlib.figure import Figure

    columns = 2 if result.history else 1
    figure = Figure(figsize=(6.5 * columns, 5.5), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)[0]
    if result.history:
        curves(axes[0], result.history)
    matrix(axes[-1], result)
    with atomic_path(folder / PICTURE) as staging:
        figure.savefig(staging, format="png", dpi=110)


def curves(axis: Any, history: list[dict[str, float]]) -> None:
    """Losses and the share of held-out pictures that are right, by epoch."""
    epochs = np.arange(1, len(history) + 1)
    axis.plot(epochs, [each["loss"] for each in history], label="loss on views")
    axis.plot(epochs, [each["held_out_loss"] for each in history], label="loss on held-out pictures")
    axis.set_xlabel("epoch")
    axis.set_ylabel("loss, nats")
    axis.set_ylim(bottom=0)
    right = axis.twinx()
    right.plot(
        epochs, [100 * each["held_out_right"] for each in history], color="tab:green", label="right, %"
    )
    right.set_ylabel("held-out pictures right, %")
    right.set_ylim(top=100)
    lines = [*axis.get_lines(), *right.get_lines()]
    axis.legend(lines, [line.get_label() for line in lines], loc="center right")


def matrix(axis: Any, result: Finetuned) -> None:
    """Each row a class, each column what it was taken for, in % of the row."""
    counts = result.confusion
    shares = 100 * counts / np.maximum(1, counts.sum(1, keepdims=True))
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    where = f"{result.validation} validation" if result.validation else f"{result.held_out} held-out"
    axis.set_title(f"{where} pictures, % of each class")
    axis.set_xlabel("taken for")
    axis.set_ylabel("class")
    if len(result.names) > NAMED:
        return
    names = [name[:SHOWN].replace("$", r"\$") for name in result.names]
    axis.set_xticks(range(len(names)), names, rotation=90)
    axis.set_yticks(range(len(names)), names)
    for row, column in np.argwhere(counts):
        colour = "white" if shares[row, column] > 50 else "black"
        axis.text(
            column, row, f"{shares[row, column]:.0f}", ha="center", va="center", color=colour, fontsize=7
        )
