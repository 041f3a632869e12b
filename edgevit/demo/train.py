"""Trains the bundled model: `python -m edgevit.demo.train`, some minutes on two cores, seeded.

Needs scikit-learn (`pip install edgevit[dev]`). Writes digits.npz and digits_vit.safetensors beside itself and
prints the accuracy on the validation split, which training never sees.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from torch.nn import functional

from edgevit.demo import DIGITS, PREPROCESSING, WEIGHTS, build, upscaled

SEED = 0
CALIBRATION, VALIDATION = 128, 400
EPOCHS, BATCH, RATE = 70, 32, 1e-3


def split() -> dict[str, npt.NDArray[Any]]:
    """Indices, scans and labels of training, calibration and validation; identical scans are kept once."""
    from sklearn.datasets import load_digits

    scans, labels = load_digits(return_X_y=True)
    scans = scans.astype(np.uint8).reshape(-1, 8, 8)
    _, unique = np.unique(scans, axis=0, return_index=True)
    order = np.random.default_rng(SEED).permutation(np.sort(unique))
    parts = {
        "calibration": order[:CALIBRATION],
        "validation": order[CALIBRATION : CALIBRATION + VALIDATION],
        "training": order[CALIBRATION + VALIDATION :],
    }
    found: dict[str, npt.NDArray[Any]] = {}
    for role, indices in parts.items():
        found[f"{role}_indices"] = indices.astype(np.int16)
        found[f"{role}_scans"] = scans[indices]
        found[f"{role}_labels"] = labels[indices].astype(np.uint8)
    return found


def tensors(digits: dict[str, npt.NDArray[Any]], role: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalised images [n, 3, height, width] and labels [n]."""
    pixels = np.stack([np.asarray(image) for image in upscaled(digits[f"{role}_scans"])])
    labels = torch.from_numpy(digits[f"{role}_labels"].astype(np.int64))
    return torch.from_numpy(PREPROCESSING.normalise(pixels)), labels


def augmented(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Small random rotations, scalings and shifts; the border stays black."""
    n = len(images)
    angle, scale, shift_x, shift_y = (
        limit * (2 * torch.rand(n, generator=generator) - 1) for limit in (0.2, 0.1, 0.1, 0.1)
    )
    cos, sin = torch.cos(angle) * (1 + scale), torch.sin(angle) * (1 + scale)
    rows = torch.stack([torch.stack([cos, -sin, shift_x], 1), torch.stack([sin, cos, shift_y], 1)], 1)
    grid = functional.affine_grid(rows, list(images.shape), align_corners=False)
    return functional.grid_sample(images + 1, grid, align_corners=False) - 1


@torch.inference_mode()
def accuracy(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of images classified right."""
    predictions = torch.cat([model(batch).argmax(1) for batch in images.split(100)])  # type: ignore[no-untyped-call]
    return float((predictions == labels).float().mean())


def main() -> None:
    """Train, save, report."""
    digits = split()
    shipped = {name: value for name, value in digits.items() if not name.startswith("training")}
    np.savez_compressed(DIGITS, **shipped)  # type: ignore[arg-type]
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    model, (images, labels) = build(), tensors(digits, "training")
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.02)
    steps = EPOCHS * math.ceil(len(images) / BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=0.1)
    for epoch in range(EPOCHS):
        model.train()
        for batch in torch.randperm(len(images), generator=generator).split(BATCH):  # type: ignore[no-untyped-call]
            logits = model(augmented(images[batch], generator))
            loss = functional.cross_entropy(logits, labels[batch], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        if epoch % 10 == 9:
            print(f"epoch {epoch + 1}: loss {loss.item():.3f}", flush=True)
    model.eval()
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, WEIGHTS)
    print(f"validation: {100 * accuracy(model, *tensors(digits, 'validation')):.2f} % of {VALIDATION}")


if __name__ == "__main__":
    main()
