"""Folders in timm's own layout, as timm writes them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from edgevit import torch_setup  # noqa: F401
from edgevit.errors import InputError
from edgevit.models import load_model

import timm  # isort: skip
from timm.models import save_for_hf  # isort: skip


def folder_of_timm(path: Path) -> tuple[Path, torch.nn.Module]:
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=4).eval()
    model.pretrained_cfg.update(
        mean=(0.1, 0.2, 0.3), std=(0.5, 0.5, 0.5), crop_pct=0.8, interpolation="bilinear"
    )
    save_for_hf(model, str(path), model_config={"label_names": ["a", "b", "c", "d"]}, safe_serialization=True)
    return path, model


def test_what_timm_saved_gives_timms_outputs(tmp_path: Path) -> None:
    folder, model = folder_of_timm(tmp_path / "model")
    loaded = load_model(str(folder))
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(loaded.module(images), model(images))
    said = loaded.preprocessing
    assert (said.mean, said.crop_pct, said.interpolation) == ((0.1, 0.2, 0.3), 0.8, "bilinear")
    assert loaded.preprocessing_from == "model/config.json"
    assert loaded.canonical


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"architecture": "vit_tinny"}, "cannot load vit_tinny: timm has no model of this name"),
        ({"num_classes": -1}, "config.json, num_classes: Input should be greater than 0"),
        ({"pretrained_cfg": {"mean": "half"}}, "the preprocessing in its config.json is not valid"),
        ({"pretrained_cfg": {"mean": [0.5]}}, "the preprocessing in its config.json is of another model"),
        ({"edgevit": {"preprocessing": {"size": 3}}}, "the preprocessing in its config.json is not valid"),
        ({"edgevit": {"function": "gone.py:build"}}, "its config.json names no classifier"),
    ],
)
def test_a_folder_that_cannot_be_used_is_one_line(
    tmp_path: Path, change: dict[str, object], line: str
) -> None:
    folder, _ = folder_of_timm(tmp_path / "model")
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, **change}))
    with pytest.raises(InputError) as caught:
        load_model(str(folder))
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_without_its_weights_is_one_line(tmp_path: Path) -> None:
    folder, _ = folder_of_timm(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"cannot read weights .*model\.safetensors: no such file"):
        load_model(str(folder))
