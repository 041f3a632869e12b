"""What each head costs, before anything is removed: a table, a picture, and the price of the cheapest k."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgevit.compression.blocks import outputs_of, require_prunable
from edgevit.compression.calibration_split import split_images
from edgevit.compression.fitting import estimate_sensitivity
from edgevit.compression.head_choice import (
    frozen_copy,
    heads_of,
    kl_dropped,
    kl_without,
    view_blocks,
)
from edgevit.errors import InputError
from edgevit.files import atomic_path
from edgevit.outputs.output import CLASS_SCORES, Outputs
from edgevit.progress import QUIET, Progress

PICTURES = {".png", ".svg"}


@dataclass(frozen=True)
class HeadPrice:
    """KL divergence in nats, on held-out images, of one head removed alone: refitted, and merely dropped."""

    block: int
    head: int
    refitted: float
    dropped: float


@dataclass(frozen=True)
class Share:
    """Which of the heads to price: the one with this number of so many, which together are all."""

    number: int
    count: int

    def of(self, heads: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Its heads, (block, head)."""
        return heads[self.number :: self.count]


WHOLE = Share(0, 1)


@dataclass(frozen=True)
class Importance:
    """Prices of all heads in order of block and head; `images` were held out of the fit.

    `names` are the modules of blocks, where those have no numbers of their own.
    """

    prices: tuple[HeadPrice, ...]
    heads: tuple[int, ...]
    images: int
    names: tuple[str, ...] = ()

    def name_of(self, block: int) -> str:
        """What a block is called."""
        return self.names[block] if self.names else f"block {block}"

    def cheapest(self, count: int) -> tuple[tuple[HeadPrice, ...], float]:
        """The `count` cheapest heads that leave every block one, and the sum of their prices.

        Removed together they usually cost more than the sum: each stood in for the others.
        """
        left = list(self.heads)
        chosen: list[HeadPrice] = []
        for price in sorted(self.prices, key=lambda price: price.refitted):
            if len(chosen) < count and left[price.block] > 1:
                left[price.block] -= 1
                chosen.append(price)
        if len(chosen) < count:
            raise InputError(
                f"cannot remove {count} heads", "each block keeps one", f"Use {len(chosen)} or fewer"
            )
        return tuple(chosen), sum(price.refitted for price in chosen)

    def to_json(self) -> dict[str, Any]:
        """Plain values, with the predicted price of the cheapest 1, 2, ... heads."""
        most = sum(self.heads) - len(self.heads)
        return {
            "images": self.images,
            "heads": list(self.heads),
            **({"names": list(self.names)} if self.names else {}),
            "prices": [asdict(price) for price in self.prices],
            "cheapest": [self.cheapest(count)[1] for count in range(1, most + 1)],
        }

    @classmethod
    def joined(cls, shares: Sequence[Importance]) -> Importance:
        """All prices, in order, of those that were priced in shares."""
        prices = sorted(
            (price for each in shares for price in each.prices), key=lambda price: (price.block, price.head)
        )
        return replace(shares[0], prices=tuple(prices))

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Importance:
        """The inverse of `to_json`."""
        prices = tuple(HeadPrice(**price) for price in values["prices"])
        return cls(prices, tuple(values["heads"]), values["images"], tuple(values.get("names", ())))


@torch.no_grad()
def head_importance(
    model: nn.Module,
    inputs: torch.Tensor,
    *,
    share: Share = WHOLE,
    seed: int = 0,
    outputs: Outputs = CLASS_SCORES,
    progress: Progress = QUIET,
) -> Importance:
    """Price every head of a canonical ViT on calibration images [n, C, H, W], as `prune_heads` would.

    Of a `share` only its heads. Raises InputError for a part that isn't understood.
    """
    vit = require_prunable(model, "head importance")
    split = split_images(inputs, seed=seed)
    student, expected = frozen_copy(vit), outputs_of(vit, split.check)
    sensitivity = estimate_sensitivity(vit, split.fit, seed=seed, outputs=outputs)
    views = view_blocks(student, vit, split, sensitivity, same=len(vit.blocks))
    counts, prices = heads_of(vit), list[HeadPrice]()
    own = share.of([(block, head) for block, heads in enumerate(counts) for head in range(heads)])
    for block, head in own:
        refitted = kl_without(student, block, views[block], head, expected, outputs)
        dropped = kl_dropped(student, block, views[block], head, expected, outputs)
        prices.append(HeadPrice(block, head, refitted, dropped))
        progress.advance(len(prices), len(own), f"block {block} head {head}")
    return Importance(tuple(prices), counts, len(split.check))


def check_picture(out: Path) -> None:
    """Raises InputError for a picture's name that doesn't say PNG or SVG."""
    if out.suffix.lower() not in PICTURES:
        raise InputError(f"cannot draw {out}", "it is neither a .png nor a .svg", "Name it heads.png")


def plot_importance(importance: Importance, out: Path) -> None:
    """Draw block by head as a PNG or SVG (by the name's ending): dark costs much."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    most = max(importance.heads)
    table = [[float("nan")] * most for _ in importance.heads]
    for price in importance.prices:
        table[price.block][price.head] = price.refitted
    figure, axes = pyplot.subplots(figsize=(1.5 + 0.7 * most, 1.5 + 0.35 * len(table)))
    try:
        picture = axes.imshow(table, cmap="viridis_r", aspect="auto")
        for price in importance.prices:
            axes.text(price.head, price.block, f"{price.refitted:.3f}", ha="center", va="center", fontsize=7)
        axes.set(xlabel="head", title="KL of removing one head, rest refitted")
        axes.set_xticks(range(most))
        axes.set_yticks(range(len(table)), [importance.name_of(block) for block in range(len(table))])
        figure.colorbar(picture, label=f"nats, {importance.images} held-out images")
        figure.tight_layout()
        with atomic_path(out) as staging:
            figure.savefig(staging, dpi=120)
    finally:
        pyplot.close(figure)
