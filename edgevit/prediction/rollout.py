"""Where a float ViT looks: attention rollout, drawn over the picture."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from edgevit.errors import InputError
from edgevit.files import atomic_path
from edgevit.rewrites.last_block import tokens_read_by_head

if TYPE_CHECKING:
    from edgevit.models import LoadedModel

Pixels = npt.NDArray[np.uint8]
FORMATS = (".png", ".pdf", ".svg", ".jpg")
METHOD = "attention rollout of the float model"


@torch.inference_mode()
def rollout(loaded: LoadedModel, pixels: Pixels) -> npt.NDArray[np.float32]:
    """Share of each patch in what the head reads, [n, rows, columns]; pixels uint8 [n, height, width, channels].

    Attention rollout (Abnar and Zuidema 2020, "Quantifying attention flow in transformers"): the product over
    blocks of (mean attention over heads + identity) / 2. Averaged over the tokens that the head reads: the class
    token, a distilled DeiT's two, or all. Raises InputError for a model that isn't the canonical ViT.
    """
    vit: Any = loaded.module
    if not loaded.canonical:
        raise InputError(
            f"cannot draw the attention of {loaded.name}", "it is not a plain ViT", "Leave --attention out"
        )
    images = torch.from_numpy(loaded.preprocessing.normalise(pixels))
    seen: list[torch.Tensor] = []
    hooks = [
        block.attn.register_forward_pre_hook(lambda module, inputs: seen.append(attention(module, inputs[0])))
        for block in vit.blocks
    ]
    try:
        vit(images)
    finally:
        for hook in hooks:
            hook.remove()
    flow = torch.eye(seen[0].shape[-1]).expand(len(images), -1, -1)
    for weights in seen:
        flow = (weights + torch.eye(weights.shape[-1])) / 2 @ flow
    prefix, (rows, columns) = vit.num_prefix_tokens, vit.patch_embed.grid_size
    read = flow[:, : tokens_read_by_head(vit)].mean(1)
    patches: npt.NDArray[np.float32] = read[:, prefix:].reshape(-1, rows, columns).numpy()
    return patches


def attention(module: Any, x: torch.Tensor) -> torch.Tensor:
    """Attention of timm's module, mean over heads: [n, tokens, tokens] for its input [n, tokens, dim]."""
    q, k, _ = module.qkv(x).unflatten(-1, (3, module.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    q, k = module.q_norm(q), module.k_norm(k)
    weights: torch.Tensor = (q * module.scale @ k.transpose(-2, -1)).softmax(dim=-1).mean(1)
    return weights


def draw(
    maps: npt.NDArray[np.float32],
    pictures: Sequence[npt.NDArray[np.uint8]],
    titles: Sequence[str],
    out: Path,
) -> None:
    """Write each picture uint8 [height, width, channels] (RGB or grey), and beside it with its map over it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.4 * len(pictures)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(pictures), 2, squeeze=False)
    for row, picture, title, found in zip(axes, pictures, titles, maps, strict=True):
        height, width = picture.shape[:2]
        shown = picture if picture.shape[2] == 3 else picture.repeat(3, axis=2)
        for place in row:
            place.imshow(shown)
            place.axis("off")
        row[0].set_title(title, fontsize=9, parse_math=False)
        row[1].set_title(METHOD, fontsize=9)
        row[1].imshow(
            found, extent=(0, width, height, 0), cmap="inferno", alpha=0.6, interpolation="bilinear"
        )
    with atomic_path(out) as staging, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of file names in scripts that the font lacks
        figure.savefig(staging, dpi=120)


def check_format(out: Path) -> None:
    """Raise InputError for a file name that says no picture format."""
    if out.suffix.lower() not in FORMATS:
        raise InputError(
            f"cannot draw to {out}", "its name ends in no known format", f"Use {', '.join(FORMATS)}"
        )
