"""Train the six models from scratch on sign-digits: minutes each on two cores. Weights are not committed.

    python benchmarks/small/train.py                      # all that have no weights yet
    python benchmarks/small/train.py --model pit --epochs 60

Images come from EDGEVIT_DATA (default ../shared/data): sign-digits/train, one folder a class.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from pathlib import Path

import torch
from models import MODELS, SIZE
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional

HERE = Path(__file__).parent
WEIGHTS = HERE / "weights"
BATCH = 64
RATE, DECAY, WARM_UP, SMOOTHING = 1e-3, 0.05, 0.1, 0.1


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", action="append", choices=list(MODELS))
    parser.add_argument("--epochs", type=int, default=60)
    arguments = parser.parse_args()
    WEIGHTS.mkdir(exist_ok=True)
    for name in arguments.model or MODELS:
        path = WEIGHTS / f"{name}.safetensors"
        if not path.exists():
            train(name, arguments.epochs, path)


def images_of(role: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalised images [n, 3, SIZE, SIZE] and labels of a role's folder."""
    folder = Path(os.environ.get("EDGEVIT_DATA", "../shared/data")) / "sign-digits" / role
    pixels, labels = [], []
    for label, each in enumerate(sorted(path for path in folder.iterdir() if path.is_dir())):
        for path in sorted(each.iterdir()):
            image = Image.open(path).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC)
            pixels.append(torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(SIZE, SIZE, 3))
            labels.append(label)
    return (torch.stack(pixels).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5, torch.tensor(labels)


def views(images: torch.Tensor) -> torch.Tensor:
    """Each image turned, scaled and shifted at random, lighter or darker."""
    count = len(images)
    angle = (torch.rand(count) - 0.5) * 0.7
    scale = 1 + (torch.rand(count) - 0.5) * 0.4
    moves = torch.zeros(count, 2, 3)
    moves[:, 0, 0], moves[:, 0, 1] = scale * angle.cos(), -scale * angle.sin()
    moves[:, 1, 0], moves[:, 1, 1] = scale * angle.sin(), scale * angle.cos()
    moves[:, :, 2] = (torch.rand(count, 2) - 0.5) * 0.3
    grid = functional.affine_grid(moves, list(images.shape), align_corners=False)
    turned = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    light = 1 + (torch.rand(count, 1, 1, 1) - 0.5) * 0.4
    return (turned * light).clamp(-1, 1)


def train(name: str, epochs: int, path: Path) -> None:
    """AdamW with warm-up and cosine, label smoothing, random views."""
    torch.manual_seed(0)
    model = MODELS[name]().train()
    images, labels = images_of("train")
    held_images, held_labels = images_of("test")
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=DECAY)
    steps, step, begun = epochs * math.ceil(len(images) / BATCH), 0, time.monotonic()
    for epoch in range(epochs):
        for chosen in torch.randperm(len(images)).split(BATCH):
            share = step / steps
            rate = min(1.0, share / WARM_UP) * 0.5 * (1 + math.cos(math.pi * share))
            for group in optimizer.param_groups:
                group["lr"] = RATE * rate
            loss = functional.cross_entropy(
                model(views(images[chosen])), labels[chosen], label_smoothing=SMOOTHING
            )
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step += 1
        if (epoch + 1) % 10 == 0 or epoch == epochs - 1:
            with torch.inference_mode():
                outputs = torch.cat([model.eval()(part) for part in held_images.split(BATCH)])
            right = 100 * float((outputs.argmax(1) == held_labels).float().mean())
            spent = time.monotonic() - begun
            print(
                f"{name}: epoch {epoch + 1}, loss {loss.item():.2f}, test {right:.1f} %, {spent:.0f} s",
                flush=True,
            )
            model.train()
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, path)


if __name__ == "__main__":
    main()
