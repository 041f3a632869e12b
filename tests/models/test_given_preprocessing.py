"""A model's images prepared as the user says: single options, files, torchvision's names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edgevit import torch_setup  # noqa: F401
from edgevit.errors import InputError
from edgevit.images.preprocessing import IMAGENET_MEAN, Preprocessing
from edgevit.images.preprocessing_request import parse_preprocessing
from edgevit.models.given_preprocessing import with_preprocessing
from edgevit.models.model import LoadedModel, finish


def loaded(channels: int = 3, size: int = 224) -> LoadedModel:
    own = Preprocessing((size, size), resize_to=256)
    if channels == 1:
        own = Preprocessing((size, size), mean=(0.5,), std=(0.5,), channels="L")
    module = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 2))
    note = "preprocessing assumed: 224x224, ImageNet mean and deviation"
    return finish("net", module, own, source="test", notes=[note])


def given(model: LoadedModel | None = None, **options: Any) -> LoadedModel:
    return with_preprocessing(model or loaded(), parse_preprocessing(options))


def test_options_replace_single_values_and_are_named_as_the_origin() -> None:
    found = given(mean="0.5", std="0.25", channels="BGR", interpolation="bilinear")
    said = found.preprocessing
    assert (said.mean, said.std, said.channels) == ((0.5,) * 3, (0.25,) * 3, "BGR")
    assert (said.interpolation, said.resize_to, said.size) == ("bilinear", 256, (224, 224))
    assert found.preprocessing_from == "--mean --std --interpolation --channels"
    assert found.notes == loaded().notes[1:]  # nothing is assumed any more


def test_crop_replaces_the_whole_geometry() -> None:
    assert given(crop="squash").preprocessing.resized_size == (224, 224)
    assert given(crop="0.5").preprocessing.resized_size == (448, 448)


def test_what_was_not_said_stays_the_models() -> None:
    found = given()
    assert (found.preprocessing, found.preprocessing_from) == (loaded().preprocessing, "assumed")


def test_class_names_are_the_models_labels() -> None:
    names = Path("labels.txt")
    with pytest.raises(InputError, match="no such file"):
        given(classes=names)


@pytest.mark.parametrize("suffix", ["toml", "json"])
def test_a_file_says_it_by_the_options_names(tmp_path: Path, suffix: str) -> None:
    values = {"mean": [0.1, 0.2, 0.3], "std": 0.5, "crop": 0.9, "interpolation": "lanczos", "input-size": 224}
    text = "\n".join(f"{key} = {json.dumps(value)}" for key, value in values.items())
    path = tmp_path / f"p.{suffix}"
    path.write_text(text if suffix == "toml" else json.dumps(values))
    found = given(preprocessing=str(path), std="0.25").preprocessing
    assert (found.mean, found.std, found.crop_pct) == ((0.1, 0.2, 0.3), (0.25,) * 3, 0.9)


def test_a_hugging_face_processor_says_it(tmp_path: Path) -> None:
    path = tmp_path / "my_processor.json"
    values = {
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "size": {"height": 224, "width": 224},
        "resample": 3,
    }
    path.write_text(json.dumps(values))
    found = given(preprocessing=str(path)).preprocessing
    assert (found.mean, found.crop_mode, found.interpolation) == ((0.5,) * 3, "squash", "bicubic")


def test_torchvisions_weights_say_it_by_name() -> None:
    found = given(preprocessing="ViT_B_16_Weights.IMAGENET1K_V1").preprocessing
    assert (found.mean, found.resize_to, found.interpolation) == (IMAGENET_MEAN, 256, "bilinear")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("{", "it is not a JSON object"),
        ("[1]", "it is not a JSON object"),
        ('{"maen": 0.5}', "maen: extra inputs are not permitted. Its keys are mean, std, input-size, crop, "),
        ('{"mean": [123.675, 116.28, 103.53]}', "it looks like units of 0..255"),
        ('{"mean": true}', "mean"),
        ('{"channels": "XYZ"}', "no such order"),
        ('{"input-size": 192}', "it takes 224x224"),
        ('{"image_mean": "half"}', "image_mean"),
        (None, "no such file"),
    ],
)
def test_a_file_that_says_nothing_usable_is_one_line(tmp_path: Path, content: str | None, why: str) -> None:
    path = tmp_path / "p.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError) as caught:
        given(preprocessing=str(path))
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "channels", "line"),
    [
        ({"input_size": "192"}, 3, "cannot give net 192x192 images: it takes 224x224. Correct the size; "),
        ({"mean": "0.1,0.2,0.3"}, 1, "--mean can't be used: it has 3 numbers for 1 channels. "),
        ({"channels": "BGR"}, 1, "cannot give net BGR images: it takes 1 channel. Leave --channels out."),
        ({"preprocessing": "Nothing_Weights.V1"}, 3, "cannot read the preprocessing of Nothing_Weights.V1: "),
    ],
)
def test_what_does_not_fit_the_model_is_one_line(options: dict[str, Any], channels: int, line: str) -> None:
    with pytest.raises(InputError) as caught:
        given(loaded(channels), **options)
    assert str(caught.value).startswith(line)


def test_as_many_names_as_classes_are_asked_for(tmp_path: Path) -> None:
    names = tmp_path / "labels.txt"
    names.write_text("good\nbad\n")
    assert given(classes=names).labels == ("good", "bad")
    names.write_text("good\nbad\nugly\n")
    with pytest.raises(InputError) as caught:
        given(classes=names)
    assert str(caught.value) == (
        "cannot name the classes: --classes has 3 names and net gives 2 logits. "
        "Give one name for each, in the order of the outputs."
    )


def test_the_module_itself_is_untouched() -> None:
    model = loaded()
    before = [each.clone() for each in model.module.parameters()]
    assert given(model, mean="0.5").module is model.module
    assert all(torch.equal(*pair) for pair in zip(before, model.module.parameters(), strict=True))
