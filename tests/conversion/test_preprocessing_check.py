"""A wrong preprocessing is caught before anything else is made of it, and the right one is never questioned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from edgevit import torch_setup  # noqa: F401
from edgevit.conversion.preprocessing_check import Sample, alternatives, check
from edgevit.conversion.reference import outputs_of
from edgevit.images import read_image_set
from edgevit.images.pixels import pixels_of
from edgevit.images.preprocessing import Preprocessing
from edgevit.models import load_model
from edgevit.models.model import LoadedModel, finish
from edgevit.progress import QUIET, Quiet

RIGHT = Preprocessing((32, 32), mean=(0.5,) * 3, std=(0.5,) * 3)


class Colours(nn.Module):
    """Knows six colours as mean and deviation 0.5 make them, and the shape of a disc."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("known", torch.tensor(COLOURS).float() / 127.5 - 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        centre = images[:, :, 12:20, 12:20].mean((2, 3))
        return -8 * (centre[:, None] - self.known).square().sum(-1)


COLOURS = [[200, 40, 40], [40, 200, 40], [40, 40, 200], [200, 200, 40], [40, 200, 200], [120, 120, 120]]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], np.ndarray]:
    """Noisy pictures of one colour each."""
    folder, random = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    labels = random.integers(0, len(COLOURS), 128)
    paths = []
    for number, label in enumerate(labels):
        colour = np.asarray(COLOURS[label]) + random.normal(0, 18, 3)
        pixels = (colour + random.normal(0, 10, (40, 40, 3))).clip(0, 255).astype(np.uint8)
        paths.append(folder / f"{number}.png")
        Image.fromarray(pixels).save(paths[-1])
    return paths, labels


def sample(model: LoadedModel, paths: list[Path], labels: np.ndarray | None) -> Sample:
    pixels = np.stack([pixels_of(path, model.preprocessing) for path in paths])
    return Sample(pixels, paths, outputs_of(model.module, pixels, model.preprocessing, QUIET), labels)


def checked(said: Preprocessing, pictures: tuple[list[Path], np.ndarray], labelled: bool) -> str | None:
    model = finish("colours", Colours(), said, source="test")
    found = check(model, sample(model, pictures[0], pictures[1] if labelled else None), Quiet())
    warning: str | None = found["warning"]
    return warning


@pytest.mark.parametrize("labelled", [True, False])
def test_the_right_preprocessing_is_not_questioned(
    pictures: tuple[list[Path], np.ndarray], labelled: bool
) -> None:
    assert checked(RIGHT, pictures, labelled) is None


@pytest.mark.parametrize("labelled", [True, False])
def test_a_wrong_normalisation_is_named_with_the_option_that_mends_it(
    pictures: tuple[list[Path], np.ndarray], labelled: bool
) -> None:
    warning = checked(replace(RIGHT, mean=(0.0,) * 3, std=(1.0,) * 3), pictures, labelled)
    assert warning is not None
    assert warning.endswith("--mean 0.5 --std 0.5")
    assert warning.startswith("THE PREPROCESSING LOOKS WRONG" if labelled else "the images may be prepared")


def test_two_faults_are_mended_together(pictures: tuple[list[Path], np.ndarray]) -> None:
    warning = checked(replace(RIGHT, channels="BGR", mean=(0.0,) * 3, std=(1.0,) * 3), pictures, True)
    assert warning is not None
    assert "--channels RGB" in warning
    assert "--mean 0.5 --std 0.5" in warning


def test_too_few_images_say_nothing(pictures: tuple[list[Path], np.ndarray]) -> None:
    few = (pictures[0][:15], pictures[1][:15])
    assert checked(replace(RIGHT, channels="BGR"), few, True) is None


def test_grey_models_have_no_order_of_channels() -> None:
    grey = Preprocessing((8, 8), mean=(0.5,), std=(0.5,), channels="L")
    assert [each.options for each in alternatives(grey)] == ["--mean 0 --std 1", "--crop squash"]


@pytest.mark.yardstick
@pytest.mark.slow
@pytest.mark.parametrize("labelled", [True, False])
def test_each_wrong_preprocessing_of_the_reference_model_is_caught(
    tmp_path: Path, reference_data: Path, labelled: bool
) -> None:
    """On photographs made wide, so that squashing differs from cropping: the photograph lies in the middle."""
    model = load_model(
        "deit_tiny_patch16_224", reference_data / "deit-tiny" / "deit_tiny_patch16_224.safetensors"
    )
    images = read_image_set(
        reference_data / "imagenet-dev" / "validation.csv",
        num_classes=1000,
        labelled=True,
        limit=128,
        seed=0,
        progress=QUIET,
    )
    paths, labels = images.paths, np.asarray(images.labels)
    wide = []
    for number, path in enumerate(paths):
        photo = Image.open(path).convert("RGB")
        around = Image.new("RGB", (photo.width * 7 // 4, photo.height), (124, 116, 104))
        around.paste(photo, ((around.width - photo.width) // 2, 0))
        wide.append(tmp_path / f"{number}.png")
        around.save(wide[-1])
    right = model.preprocessing
    known = labels if labelled else None
    assert check(model, sample(model, wide, known))["warning"] is None
    for wrong, option in (
        (replace(right, mean=(0.5,) * 3, std=(0.5,) * 3), "--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225"),
        (replace(right, mean=(0.0,) * 3, std=(1.0,) * 3), "--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225"),
        (replace(right, channels="BGR"), "--channels RGB"),
        (replace(right, crop_mode="squash"), "--crop 0.9"),
    ):
        said = replace(model, preprocessing=wrong)
        assert str(check(said, sample(said, wide, known))["warning"]).endswith(option)
