"""How few cycles could keep DeiT-Ti's nearest neighbours: what a plan costs and keeps where all else is for free.

    python benchmarks/outputs/least.py

Every part of a block is rounded to int8 alone, in PyTorch, on 128 photographs. The parts whose errors cost the
most for their multiplications are then computed in 16 bits, twice as slow, as many as so many cycles allow, and the
others in int8. The residual stream, norms, additions and conversions are exact and cost nothing, as no compiler has
it: what a real plan keeps at as many cycles is less.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from models import DATA
from torch import nn

from edgevit.backends.registry import backend_of
from edgevit.conversion.artefacts import Conversion
from edgevit.outputs.output import Output, Outputs
from edgevit.progress import QUIET
from edgevit.quantize.activations import outputs_of
from edgevit.quantize.fake_quantization import quantize_weights, quantizer, tap_of_layer
from edgevit.quantize.plan import read_plan
from edgevit.quantize.prepare import restored
from edgevit.request.job import make_job
from edgevit.rewrites.equivalence import apply_rewrites
from edgevit.run.folder import open_run
from edgevit.targets.profiles import load_board

BOARD, ALONE = "rk3588", 128  # images that a part is rounded alone on
INT8 = 1.12  # million cycles of all in int8, by the vendor's compiler
CYCLES = (1.30, 1.45, 1.60, 1.75, 1.90)
# A part's tensors that int8 rounds, the layer whose weights it rounds, multiplications in widths and tokens.
PARTS = {
    "qkv": (("norm1", "q", "k", "v"), "attn.qkv"),
    "attention": (("scores", "softmax"), None),
    "proj": (("attention",), "attn.proj"),
    "fc1": (("norm2",), "mlp.fc1"),
    "fc2": (("gelu",), "mlp.fc2"),
}


@dataclass(frozen=True)
class Part:
    """Tensors and a layer that are in 16 bits together, and the multiplications of an image."""

    tensors: tuple[str, ...]
    layer: str | None
    work: int


def main() -> None:
    vit, ranges, images = prepared()
    fusion, kind = backend_of(load_board(BOARD)).fusion, Outputs((Output("embedding", "embedding", (192,)),))
    parts, few = parts_of(vit), images[:ALONE]

    def rounded(chosen: Collection[str], given: torch.Tensor) -> torch.Tensor:
        """Outputs where these parts are in int8 and all else is exact."""
        tensors = {name for each in chosen for name in parts[each].tensors}
        layers = {parts[each].layer for each in chosen}
        weighted = [name for name, layer in vit.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
        exact = {tap_of_layer(name) for name in weighted if name not in layers}
        tap = quantizer({name: span for name, span in ranges.items() if name in tensors}, fusion)
        return outputs_of(quantize_weights(vit, exact), given, tap)

    reference = outputs_of(vit, few)
    errors = {name: error(rounded([name], few), reference) for name in parts}
    for sort in (*PARTS, "patch"):
        every = [name for name in parts if name.endswith(sort)]
        work = sum(parts[name].work for name in every)
        print(
            f"{sort:10} error {sum(errors[name] for name in every):.4f}  {work / 1e6:.0f} M multiplications"
        )
    order = sorted(parts, key=lambda name: -errors[name] / parts[name].work)
    total, reference = sum(part.work for part in parts.values()), outputs_of(vit, images)
    for cycles in CYCLES:
        room, kept = (cycles / INT8 - 1) * total, list[str]()
        for name in order:
            if parts[name].work <= room:
                room -= parts[name].work
                kept.append(name)
        told = kind.compare(rounded(set(parts) - set(kept), images).numpy(), reference.numpy(), None)
        same = f"same nearest {100 * told.agreement:.1f} %"
        print(f"{cycles:.2f} M cycles: cosine {told.cosine:.4f}, {same}, n = {told.n}")


def prepared() -> tuple[Any, Mapping[str, tuple[float, float]], torch.Tensor]:
    """The module as `edgevit convert` makes it ready for int8, its ranges, the validation images normalised."""
    with tempfile.TemporaryDirectory() as folder:
        data = DATA / "imagenet-dev"
        job = make_job(
            f"{Path(__file__).parent / 'models.py'}:deit_embedding",
            (BOARD,),
            ("int8",),
            None,
            Path(folder) / "run",
            search_minutes=0,
            calibration=data / "calibration.csv",
            validation=data / "validation.csv",
            outputs=("embedding",),
        )
        with open_run(job.out) as run:
            conversion, board = Conversion(job, run, QUIET), load_board(BOARD)
            exported, validation = conversion.exported(board, "int8"), conversion.validation
            assert validation is not None
            normalise = conversion.preprocessing.normalise
            images = torch.from_numpy(normalise(np.load(validation.path("pixels.npy"))))
            rewrites = conversion.rewrites(board, "int8")
            module, _ = apply_rewrites(conversion.exporting.module, rewrites, images[:2], npu=board.npu)
            ranges = read_plan(exported.path("plan.toml")).ranges
            return restored(module, exported.path("int8.safetensors")), ranges, images


def parts_of(vit: Any) -> dict[str, Part]:
    """All parts by name, the last block's with the one token that it computes."""
    tokens, width = vit.patch_embed.num_patches + 1, vit.embed_dim
    found = {"patch": Part(("input", "patch"), "patch_embed.proj", tokens * width * 3 * 16 * 16)}
    for index, block in enumerate(vit.blocks):
        rows = getattr(block, "queries", None) or tokens
        work = {
            "qkv": 3 * tokens * width**2,
            "attention": 2 * rows * tokens * width,
            "proj": rows * width**2,
            "fc1": 4 * rows * width**2,
            "fc2": 4 * rows * width**2,
        }
        for name, (kinds, layer) in PARTS.items():
            tensors = tuple(f"blocks.{index}.{kind}" for kind in kinds)
            found[f"{index}.{name}"] = Part(tensors, layer and f"blocks.{index}.{layer}", work[name])
    return found


def error(found: torch.Tensor, reference: torch.Tensor) -> float:
    """The mean squared error relative to the outputs."""
    return float(((found - reference).square().sum(1) / reference.square().sum(1)).mean())


if __name__ == "__main__":
    main()
