"""The tables `edgevit prune-report` prints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgevit.cli.console import print_table

if TYPE_CHECKING:
    from edgevit.compression.head_importance import Importance


def print_importance(found: Importance, model: str, picture: Path | None) -> None:
    """Print the price of each head, then of removing the cheapest 1, 2, ..."""
    most = max(found.heads)
    cells = {(price.block, price.head): f"{price.refitted:.4f}" for price in found.prices}
    rows = [
        [found.name_of(block), *(cells.get((block, head), "") for head in range(most))]
        for block in range(len(found.heads))
    ]
    columns = ("attention", *(f"head {head}" for head in range(most)))
    title = f"{model}: price of each attention head, {found.images} held-out images"
    print_table(
        title, columns, rows, ["KL divergence in nats when that head alone goes and the rest is refitted"]
    )
    spare = sum(found.heads) - len(found.heads)
    steps = []
    for count in range(1, spare + 1):
        chosen, price = found.cheapest(count)
        last = chosen[-1]
        steps.append(
            [
                str(count),
                f"{found.name_of(last.block)} head {last.head}",
                f"{last.refitted:.4f}",
                f"{price:.4f}",
            ]
        )
    notes = ["the sum is a guess from single prices: together they usually cost more"]
    if found.names:
        notes.append("convert --prune-heads removes heads of plain ViTs alone")
    if picture is not None:
        notes.append(f"picture: {picture}")
    print_table("removing the cheapest heads", ("heads", "the last of them", "KL alone", "sum"), steps, notes)
