"""Plant massive activations in the reference model: a stand-in for the trained ViTs that have them.

    EDGEVIT_DATA=../shared/data python benchmarks/precision/planted.py planted.safetensors

In real models a few tokens carry hundreds of times the usual magnitude in one channel from a middle block on
("Massive Activations in Large Language Models", Sun et al. 2024, arXiv 2402.17762). Here one neuron of block 7, the
one that matters least, is made to answer to about one token in 250 and to write some hundreds into one channel.
"""

from __future__ import annotations

import argparse
import csv
import os
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from edgevit.images.pixels import pixels_of
from edgevit.models.loading import load_model

MODEL, BLOCK, CHANNEL = "deit_tiny_patch16_224", 7, 133
SHARE, MAGNITUDE, IMAGES = 0.004, 580.0, 64


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    data = Path(os.environ.get("EDGEVIT_DATA", "../shared/data"))
    model = load_model(MODEL, weights=data / "deit-tiny" / f"{MODEL}.safetensors")
    with (data / "imagenet-dev" / "calibration.csv").open() as file:
        paths = [data / "imagenet-dev" / row[0] for row in list(csv.reader(file))[1:]][:IMAGES]
    pixels = np.stack([pixels_of(path, model.preprocessing) for path in paths])
    found = plant(model.module, torch.from_numpy(model.preprocessing.normalise(pixels)))
    save_file({name: each.contiguous() for name, each in model.module.state_dict().items()}, arguments.out)
    print(f"{arguments.out}: {found}")


@torch.no_grad()
def plant(vit: torch.nn.Module, images: torch.Tensor) -> str:
    """Change one neuron in place; `images` [n, 3, 224, 224] show which tokens it will answer to."""
    seen: list[torch.Tensor] = []
    block = vit.blocks[BLOCK]
    hook = block.norm2.register_forward_hook(lambda _m, _i, output: seen.append(output[:, 1:].flatten(0, 1)))
    vit(images)
    hook.remove()
    tokens = torch.cat(seen)
    centre = tokens.mean(0)
    direction = torch.linalg.svd(tokens - centre, full_matrices=False).Vh[0]
    answers = (tokens - centre) @ direction
    threshold = answers.quantile(1 - SHARE)
    excess = (answers[answers > threshold] - threshold).median()
    fc1, fc2 = block.mlp.fc1, block.mlp.fc2
    neuron = int(fc2.weight.norm(dim=0).argmin())
    slope = MAGNITUDE / 10 / excess
    fc1.weight[neuron] = slope * direction
    fc1.bias[neuron] = -slope * (threshold + centre @ direction)
    fc2.weight[:, neuron] = 0.0
    fc2.weight[CHANNEL, neuron] = -10.0
    return f"neuron {neuron} of block {BLOCK} writes -{MAGNITUDE:.0f} (median) into channel {CHANNEL}"


if __name__ == "__main__":
    main()
