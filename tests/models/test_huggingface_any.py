"""Hugging Face directories of other image classifiers, loaded by transformers."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from edgevit.errors import InputError
from edgevit.images.pixels import pixels_of
from edgevit.models import load_model
from edgevit.models.outputs import named, rows_of

transformers = pytest.importorskip("transformers")

SWIN = {
    "image_size": 32,
    "patch_size": 4,
    "window_size": 4,
    "embed_dim": 16,
    "depths": [1, 1],
    "num_heads": [2, 2],
}
KINDS: dict[str, tuple[dict[str, Any], str | None]] = {
    "Swin": (SWIN, "ViT"),
    "Pvt": (
        {
            "image_size": 32,
            "hidden_sizes": [8, 16, 24, 32],
            "num_attention_heads": [1, 2, 3, 4],
            "depths": [1] * 4,
        },
        None,
    ),
    "ConvNext": ({"image_size": 32, "hidden_sizes": [8, 8, 16, 16], "depths": [1] * 4}, "ConvNext"),
    "MobileViT": (
        {"image_size": 64, "hidden_sizes": [8, 16, 24], "neck_hidden_sizes": [4, 8, 8, 16, 16, 16, 32]},
        "MobileViT",
    ),
}


def written(folder: Path, kind: str, **options: Any) -> Any:
    """A directory as save_pretrained leaves it, seeded weights, five named classes."""
    torch.manual_seed(0)
    values, processor = KINDS[kind]
    names = {index: f"kind {index}" for index in range(5)}
    config = getattr(transformers, f"{kind}Config")(**values, id2label=names)
    model = getattr(transformers, f"{kind}ForImageClassification")(config).eval()
    model.save_pretrained(folder)
    if processor is not None:
        side = values["image_size"]
        sizes = {
            "ViT": {"size": {"height": side, "width": side}},
            "ConvNext": {"size": {"shortest_edge": side}},
        }
        usual = {"size": {"shortest_edge": side + 8}, "crop_size": {"height": side, "width": side}}
        getattr(transformers, f"{processor}ImageProcessor")(**sizes.get(processor, usual)).save_pretrained(
            folder
        )
    return model


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_directory_gives_the_classifiers_own_logits(tmp_path: Path, kind: str) -> None:
    original = written(tmp_path, kind)
    loaded = load_model(str(tmp_path))
    names = tuple(f"kind {index}" for index in range(5))
    if kind != "Pvt":  # whose configuration forgets them
        assert (loaded.num_classes, loaded.labels) == (5, names)
    assert f"Hugging Face {kind}ForImageClassification" in loaded.source and not loaded.canonical
    images = torch.randn(2, 3, *loaded.preprocessing.size)
    with torch.inference_mode():
        given = images.flip(1) if kind == "MobileViT" else images
        torch.testing.assert_close(loaded.module(images), original(pixel_values=given).logits)


@pytest.mark.parametrize("kind", [kind for kind, (_, processor) in KINDS.items() if processor])
def test_pictures_are_prepared_as_its_own_processor_does(tmp_path: Path, kind: str) -> None:
    original = written(tmp_path, kind)
    loaded = load_model(str(tmp_path))
    rows = np.linspace(0, 255, 96 * 128 * 3).reshape(96, 128, 3).astype(np.uint8)
    picture = Image.fromarray(rows)
    picture.save(tmp_path / "picture.png")
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    with torch.inference_mode():
        theirs = original(**processor(picture, return_tensors="pt")).logits
        pixels = pixels_of(tmp_path / "picture.png", loaded.preprocessing)[None]
        ours = loaded.module(torch.from_numpy(loaded.preprocessing.normalise(pixels)))
    torch.testing.assert_close(ours, theirs, atol=0.02, rtol=0.05)


def error_of(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_model(str(folder))
    text = str(caught.value).replace(str(folder), "DIR")
    assert "\n" not in text
    return text


def test_what_is_wrong_with_a_directory_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, "Swin")
    config = json.loads((tmp_path / "config.json").read_text())
    for name in ("MyOwnViT", "PreTrainedModel", "os"):
        (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": [name]}))
        assert f"has no image model {name}" in error_of(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config | {"depths": [1, 2]}))
    assert "of its weights are missing (swin.encoder.layers.1.blocks.1." in error_of(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config | {"depths": "many"}))
    assert "DIR: transformers says " in error_of(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    content = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content[:1000])
    assert "DIR: transformers says " in error_of(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(content)
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert error_of(tmp_path) == (
        "cannot load DIR: SwinForImageClassification needs the package transformers, which is not installed. "
        'Run "pip install transformers", or name a Python file that builds it (file.py:function).'
    )


def test_code_in_a_directory_is_not_run(tmp_path: Path) -> None:
    written(tmp_path, "Swin")
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {
        "architectures": ["EvilForImageClassification"],
        "auto_map": {"AutoModel": "evil.EvilForImageClassification"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "evil.py").write_text("raise SystemExit('it ran')")
    assert "has no image model EvilForImageClassification" in error_of(tmp_path)


TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
# Heads that no table names, with the values that make them small, and the outputs that are found: name, kind.
OTHER_HEADS: dict[str, tuple[dict[str, Any], list[tuple[str, str]]]] = {
    "EomtForUniversalSegmentation": (
        TINY
        | {"image_size": 64, "patch_size": 16, "num_blocks": 1, "num_upscale_blocks": 1, "num_queries": 8},
        [("class_queries_logits", "tokens"), ("masks_queries_logits", "dense")],
    ),
    "Swin2SRForImageSuperResolution": (
        {"image_size": 32, "embed_dim": 32, "depths": [1], "num_heads": [2], "window_size": 8},
        [("reconstruction", "dense")],
    ),
    "SegformerModel": (
        {"hidden_sizes": [8, 16, 16, 24], "depths": [1] * 4, "num_attention_heads": [1, 2, 2, 2]},
        [("last_hidden_state", "dense")],
    ),
    "SwinBackbone": (
        SWIN | {"out_features": ["stage1", "stage2"]},
        [("feature_maps_0", "dense"), ("feature_maps_1", "dense")],
    ),
}


@pytest.mark.parametrize("name", list(OTHER_HEADS))
def test_any_head_gives_what_its_own_library_gives(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    values, outputs = OTHER_HEADS[name]
    made = getattr(transformers, name)
    original = made(made.config_class(**values)).eval()
    original.save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path))
    assert [(each.name, each.kind) for each in loaded.outputs.each] == outputs
    images = torch.randn(2, 3, *loaded.preprocessing.size)
    with torch.inference_mode():
        theirs = dict(named(original(pixel_values=images)))
        torch.testing.assert_close(
            rows_of(loaded.module(images)), rows_of([theirs[output] for output, _ in outputs])
        )


def test_a_model_for_poses_knows_its_size_by_its_backbone(tmp_path: Path) -> None:
    body = TINY | {"image_size": [64, 48], "patch_size": [16, 16], "out_features": ["stage2"]}
    backbone = transformers.VitPoseBackboneConfig(**body, out_indices=None)
    config = transformers.VitPoseConfig(backbone_config=backbone)
    transformers.VitPoseForPoseEstimation(config).save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path))
    assert loaded.preprocessing.size == (64, 48)
    assert [(each.name, each.kind) for each in loaded.outputs.each] == [("heatmaps", "dense")]


def test_a_model_that_needs_more_than_an_image_is_one_line(tmp_path: Path) -> None:
    config = transformers.VideoMAEConfig(**TINY, image_size=32, patch_size=16, num_frames=2)
    transformers.VideoMAEModel(config).save_pretrained(tmp_path)
    assert "VideoMAEModel does not run on an image of 32x32 alone: " in error_of(tmp_path)


def test_a_class_that_transformers_cannot_import_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, "Swin")

    class Broken:
        def __getattr__(self, name: str) -> Any:
            raise ModuleNotFoundError(f"Could not import module '{name}'")

    monkeypatch.setitem(sys.modules, "transformers", Broken())
    assert "transformers can't import its SwinForImageClassification: " in error_of(tmp_path)
