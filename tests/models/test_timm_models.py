from __future__ import annotations

import urllib.error
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from edgevit import torch_setup  # noqa: F401
from edgevit.errors import InputError
from edgevit.models import load_model, timm_models
from tests.vits import same_function

import timm  # isort: skip

NAME = "test_vit"  # timm's own tiny ViT: 64 wide, 6 blocks, 160 px


def saved(folder: Path, name: str = NAME, **options: Any) -> tuple[Path, torch.nn.Module]:
    torch.manual_seed(0)
    module = timm.create_model(name, **options).eval()
    save_file(module.state_dict(), folder / "w.safetensors")
    return folder / "w.safetensors", module


def error_of(*args: Any, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        load_model(*args, **options)
    return str(caught.value)


def test_weights_file_gives_the_saved_logits(tmp_path: Path) -> None:
    path, module = saved(tmp_path)
    loaded = load_model(NAME, path)
    images = torch.randn(2, 3, 160, 160)
    same_function(loaded.module(images), module(images))
    assert loaded.canonical
    assert loaded.num_classes == 1000
    assert loaded.notes == ()
    assert loaded.source == "timm test_vit, weights w.safetensors"
    assert not loaded.module.training
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in loaded.module.parameters())


def test_preprocessing_is_timms(tmp_path: Path) -> None:
    path, _ = saved(tmp_path)
    read = load_model(NAME, path).preprocessing
    config = timm.data.resolve_data_config({}, model=timm.create_model(NAME))
    assert (3, *read.size) == tuple(config["input_size"])
    assert read.crop_pct == config["crop_pct"]
    assert read.crop_mode == config["crop_mode"]
    assert read.interpolation == config["interpolation"]
    assert (read.mean, read.std) == (tuple(config["mean"]), tuple(config["std"]))


def test_class_count_comes_from_the_checkpoint(tmp_path: Path) -> None:
    path, _ = saved(tmp_path, num_classes=7)
    loaded = load_model(NAME, path)
    assert loaded.num_classes == 7
    assert loaded.notes == ("built with 7 classes, as in the weights file (timm's default is 1000)",)
    assert load_model(NAME, path, num_classes=7).num_classes == 7
    assert error_of(NAME, path, num_classes=8) == (
        f"cannot load test_vit with 8 classes: the head in {path} has 7. Ask for 7 classes, or give other weights."
    )


def test_other_size_is_built_as_trained(tmp_path: Path) -> None:
    path, module = saved(tmp_path, img_size=(96, 64))
    loaded = load_model(NAME, path, size=(96, 64))
    images = torch.randn(1, 3, 96, 64)
    assert loaded.preprocessing.size == (96, 64)
    same_function(loaded.module(images), module(images))


def test_folder_of_a_models_name_does_not_hide_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = saved(tmp_path)
    (tmp_path / NAME).mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_model(NAME, path).canonical


def test_size_the_model_cannot_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = saved(tmp_path)

    def refuse(*args: Any, **options: Any) -> None:
        raise AssertionError("img_size must be divisible by 32.")

    monkeypatch.setattr(timm_models.timm, "create_model", refuse)
    assert error_of(NAME, path, size=(90, 96)) == (
        "cannot build test_vit at 90x96: AssertionError: img_size must be divisible by 32. "
        "Choose a size the model can take."
    )


def test_convolutional_model_takes_any_size_and_is_not_canonical(tmp_path: Path) -> None:
    path, _ = saved(tmp_path, "test_resnet", num_classes=4)
    loaded = load_model("test_resnet", path, size=(64, 96))
    assert loaded.preprocessing.size == (64, 96)
    assert not loaded.canonical
    assert loaded.notes[-1] == "rewrites for plain ViTs are left out: ResNet is not timm's VisionTransformer"


def test_distilled_deit_is_canonical(tmp_path: Path) -> None:
    path, module = saved(tmp_path, "deit_tiny_distilled_patch16_224", num_classes=5)
    loaded = load_model("deit_tiny_distilled_patch16_224", path)
    assert (loaded.num_classes, loaded.canonical) == (5, True)
    images = torch.randn(1, 3, 224, 224)
    same_function(loaded.module(images), module(images))


def test_other_models_weights_are_described(tmp_path: Path) -> None:
    path, _ = saved(tmp_path, embed_dim=32, num_heads=2, depth=5)
    assert error_of(NAME, path) == (
        f"cannot load {path} into test_vit: 67 of another shape (cls_token is [1, 1, 32] where [1, 1, 64] is "
        "expected, pos_embed is [1, 101, 32] where [1, 101, 64] is expected, patch_embed.proj.weight is "
        "[32, 3, 16, 16] where [64, 3, 16, 16] is expected, ...); 12 missing (blocks.5.norm1.weight, "
        "blocks.5.norm1.bias, blocks.5.attn.qkv.weight, ...). "
        "The weights are of another model: embed dim 32 where it has 64, depth 5 where it has 6."
    )


def test_other_image_size_is_named_not_resampled(tmp_path: Path) -> None:
    path, _ = saved(tmp_path, img_size=96)
    assert error_of(NAME, path) == (
        f"cannot load {path} into test_vit: 1 of another shape (pos_embed is [1, 37, 64] where [1, 101, 64] is "
        "expected). The weights are of another model: image size 96 where it has 160."
    )


def test_missing_and_unexpected_keys_are_listed(tmp_path: Path) -> None:
    path, module = saved(tmp_path)
    weights = module.state_dict()
    del weights["head.bias"]
    save_file(weights | {"extra": torch.ones(1)}, path)
    assert error_of(NAME, path) == (
        f"cannot load {path} into test_vit: 1 missing (head.bias); 1 unexpected (extra). "
        "Name the model these weights were saved from."
    )


def test_original_layouts_that_timm_renames_are_renamed(tmp_path: Path) -> None:
    path, module = saved(tmp_path)
    weights = module.state_dict()
    flat = weights["patch_embed.proj.weight"].flatten(1)
    weights = {f"visual.trunk.{key}": value for key, value in weights.items()}
    weights["visual.trunk.patch_embed.proj.weight"] = flat
    save_file(weights, path)
    images = torch.randn(1, 3, 160, 160)
    same_function(load_model(NAME, path).module(images), module(images))


def test_unknown_name_shows_the_nearest() -> None:
    assert error_of("vit_tinny_patch16_224") == (
        "cannot load vit_tinny_patch16_224: timm has no model of this name. Did you mean vit_tiny_patch16_224 "
        "or deit_tiny_patch16_224 or vit_tiny_patch16_384."
    )
    assert error_of("test_vit.r160_in2k") == (
        "cannot load test_vit.r160_in2k: test_vit has no pretrained tag 'r160_in2k'. "
        "Did you mean test_vit.r160_in1k."
    )


def test_a_classifier_of_no_classes_is_refused(tmp_path: Path) -> None:
    assert error_of(NAME, num_classes=0) == (
        "cannot load test_vit: 0 classes make no classifier. Ask for one class or more."
    )


def test_failed_download_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: Any, **options: Any) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(timm_models.timm, "create_model", offline)
    monkeypatch.setattr(timm_models, "reach", lambda hub: None)
    assert error_of(NAME) == (
        "cannot download the weights of test_vit: URLError: <urlopen error Name or service not known>. "
        "Pass a weights file with --weights, or check the connection and try again."
    )
    assert error_of(NAME, num_classes=3) == (
        "cannot load test_vit with 3 classes: its pretrained head has 1000. "
        "Fine-tune it first and pass the result with --weights."
    )


def test_unreachable_hub_is_asked_once_and_nothing_is_printed(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def offline(url: str, **options: Any) -> None:
        asked.append(url.rpartition("/")[2])
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", offline)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repository, file: None)
    for name in (NAME, "hf-hub:somebody/some_vit"):
        assert error_of(name) == (
            f"cannot download the weights of {name}: ConnectionError: Name or service not known. "
            "Pass a weights file with --weights, or check the connection and try again."
        )
    assert asked == ["model.safetensors"] * 2
    assert capfd.readouterr() == ("", "")


def test_cached_weights_need_no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repository, file: "/cached")
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", lambda *a, **k: pytest.fail("asked the hub"))
    timm_models.reach(timm_models.hub_files(NAME))


def test_names_of_torchvision_and_nothing(tmp_path: Path) -> None:
    assert error_of("vit_b_16") == (
        "cannot load vit_b_16: timm has no model of this name, torchvision has. "
        "Name it torchvision:vit_b_16, with --weights for weights of your own."
    )
    for name in ("", " "):
        assert error_of(name) == (
            "cannot load a model: its name is empty. Give a timm name, file.py:function or directory."
        )


def test_size_the_weights_were_not_trained_at(tmp_path: Path) -> None:
    path, _ = saved(tmp_path)
    assert error_of(NAME, path, size=(96, 96)) == (
        f"cannot load {path} into test_vit at 96x96: its position embedding is for 160x160. "
        "Give the size it was trained at."
    )
    path, _ = saved(tmp_path, img_size=(96, 64))
    assert error_of(NAME, path, size=(96, 96)) == (
        f"cannot load {path} into test_vit at 96x96: its position embedding is for 25 tokens. "
        "Give the size it was trained at."
    )


@pytest.mark.parametrize(
    ("named", "stored"),
    [
        ("deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"),
        ("deit_tiny_distilled_patch16_224", "deit_tiny_patch16_224"),
    ],
)
def test_deit_with_and_without_distillation_are_told_apart(tmp_path: Path, named: str, stored: str) -> None:
    path, _ = saved(tmp_path, stored)
    assert error_of(named, path).endswith(f"). These are weights of {stored}.")


def test_paths_in_place_of_a_name_are_explained(tmp_path: Path) -> None:
    path, _ = saved(tmp_path)
    assert error_of(str(path)) == (
        f"cannot load {path}: it is a weights file, not a model. Name the model and pass --weights {path}."
    )
    assert error_of(f"{tmp_path}/absent") == (
        f"cannot load {tmp_path}/absent: no such directory. "
        "Check the path, or give a timm name, file.py:function or directory."
    )


@pytest.mark.yardstick
def test_reference_model_loads(reference_data: Path) -> None:
    weights = reference_data / "deit-tiny" / "deit_tiny_patch16_224.safetensors"
    loaded = load_model("deit_tiny_patch16_224", weights)
    assert loaded.num_classes == 1000
    assert loaded.canonical
    assert loaded.preprocessing.resized_size == (248, 248)
    assert torch.isfinite(loaded.module(torch.randn(2, 3, 224, 224))).all()
