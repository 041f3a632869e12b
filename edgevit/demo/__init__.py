"""A small ViT trained on handwritten digits, with its images: edgevit in one minute, offline.

The digits are scikit-learn's `load_digits`: 1 797 scans of 8 x 8 pixels, from the UCI "Optical Recognition of
Handwritten Digits" set (E. Alpaydin, C. Kaynak; CC BY 4.0). They travel with the package in digits.npz, split
for good into training, calibration and validation; `train.py` made the split and the weights.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from edgevit import torch_setup  # noqa: F401
from edgevit.images.preprocessing import Preprocessing
from edgevit.models import LoadedModel
from edgevit.outputs.output import Output, Outputs

from safetensors.torch import load_file  # isort: skip
from timm.models.vision_transformer import VisionTransformer  # isort: skip

FOLDER = Path(__file__).parent
WEIGHTS = FOLDER / "digits_vit.safetensors"
DIGITS = FOLDER / "digits.npz"
SIZE = 96
PREPROCESSING = Preprocessing(
    size=(SIZE, SIZE), crop_pct=1.0, interpolation="bilinear", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
)
NAMES = tuple("0123456789")


def build() -> VisionTransformer:
    """The untrained model: a plain ViT of the usual shape, patch 16, class token, made small."""
    return VisionTransformer(
        img_size=SIZE, patch_size=16, embed_dim=96, depth=5, num_heads=3, num_classes=10, mlp_ratio=4
    )


def load_demo() -> LoadedModel:
    """The trained model."""
    module = build()
    module.load_state_dict(load_file(WEIGHTS))
    return LoadedModel(
        name="digits_vit",
        module=module.eval().requires_grad_(False),
        preprocessing=PREPROCESSING,
        outputs=Outputs((Output("logits", "logits", (10,)),)),
        canonical=True,
        source="bundled model, trained on handwritten digits",
        labels=NAMES,
    )


def upscaled(digits: npt.NDArray[np.uint8]) -> list[Image.Image]:
    """Scans [n, 8, 8] with values 0..16 as RGB images of the model's size."""
    grey = np.round(digits.astype(np.float64) * (255 / 16)).astype(np.uint8)
    size = (SIZE, SIZE)
    return [Image.fromarray(scan).resize(size, Image.Resampling.BILINEAR).convert("RGB") for scan in grey]


def write_demo_images(folder: Path) -> None:
    """Write class folders `calibration` and `validation` of PNGs into `folder`."""
    with np.load(DIGITS, allow_pickle=False) as digits:
        for role in ("calibration", "validation"):
            indices, scans, labels = (digits[f"{role}_{kind}"] for kind in ("indices", "scans", "labels"))
            for index, image, label in zip(indices, upscaled(scans), labels, strict=True):
                path = folder / role / NAMES[label] / f"{index:04d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                image.save(path)
