from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from edgevit import torch_setup  # noqa: F401
from edgevit.errors import InputError, ParityError
from edgevit.models import load_model, torchvision_vit

import torchvision  # isort: skip


@pytest.fixture(autouse=True)
def tiny_variant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(torchvision_vit.SHAPES, "vit_b_16", (24, 2, 3, 16))
    torchvision_vit.shape_named.cache_clear()


def saved(folder: Path, **options: Any) -> tuple[Path, torch.nn.Module]:
    """A tiny torchvision ViT, every parameter random: torchvision starts the head and class token at zero."""
    torch.manual_seed(0)
    shape = {
        "image_size": 64,
        "patch_size": 16,
        "num_layers": 2,
        "num_heads": 3,
        "hidden_dim": 24,
        "mlp_dim": 50,
    }
    module = torchvision.models.VisionTransformer(**(shape | {"num_classes": 5} | options)).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.3)
    torch.save(module.state_dict(), folder / "w.pth")
    return folder / "w.pth", module


def error_of(*args: Any, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        load_model(*args, **options)
    return str(caught.value)


def test_state_dict_becomes_the_canonical_vit_with_the_same_logits(tmp_path: Path) -> None:
    path, module = saved(tmp_path)
    loaded = load_model("torchvision:vit_b_16", path)
    images = torch.randn(3, 3, 64, 64)
    assert (loaded.module(images) - module(images)).abs().max() < 1e-4
    assert loaded.canonical
    assert loaded.num_classes == 5
    assert loaded.parity is not None and 0 <= loaded.parity < 1e-4
    assert loaded.notes == ("preprocessing assumed: shorter side 64 bicubic, ImageNet mean and deviation",)


def test_layout_is_recognised_under_another_name(tmp_path: Path) -> None:
    path, module = saved(tmp_path)
    assert load_model("vit_b_16", path).notes == load_model("torchvision:vit_b_16", path).notes
    path, module = saved(tmp_path, hidden_dim=64, num_heads=2, num_layers=6)
    loaded = load_model("test_vit", path)
    images = torch.randn(2, 3, 64, 64)
    assert (loaded.module(images) - module(images)).abs().max() < 1e-4
    assert loaded.notes[-1] == (
        "the weights are torchvision's; test_vit names their shape, not their preprocessing"
    )


def test_unknown_names_stay_unknown_with_torchvisions_weights(tmp_path: Path) -> None:
    path, _ = saved(tmp_path)
    assert error_of("zzzz", path) == (
        "cannot load zzzz: timm has no model of this name. See timm.list_models() for the names."
    )
    assert error_of("hf-hub:somebody/some_vit", path) == (
        "cannot load hf-hub:somebody/some_vit: a model on the Hugging Face hub brings its own weights. "
        "Leave --weights out, or give the model's timm name."
    )
    for name in ("resnet18", "deit_base_distilled_patch16_224"):
        assert error_of(name, path) == (
            f"cannot load {path} into {name}: the weights are a torchvision ViT's, and {name} is no plain ViT. "
            "Use torchvision:vit_b_16."
        )


def test_names_of_old_torchvision_are_read(tmp_path: Path) -> None:
    path, module = saved(tmp_path)
    old = {
        key.replace(".mlp.0.", ".mlp.linear_1.").replace(".mlp.3.", ".mlp.linear_2."): value
        for key, value in module.state_dict().items()
    }
    torch.save(old, path)
    loaded = load_model("torchvision:vit_b_16", path)
    images = torch.randn(2, 3, 64, 64)
    assert (loaded.module(images) - module(images)).abs().max() < 1e-4


def test_hidden_head_layer_keeps_torchvisions_module(tmp_path: Path) -> None:
    path, module = saved(tmp_path, representation_size=8)
    loaded = load_model("torchvision:vit_b_16", path)
    images = torch.randn(2, 3, 64, 64)
    assert (loaded.module(images) - module(images)).abs().max() < 1e-5
    assert not loaded.canonical
    assert loaded.notes[-2] == "kept as torchvision's module: its head has a hidden layer"


def test_preprocessing_of_224_is_torchvisions(tmp_path: Path) -> None:
    path, _ = saved(tmp_path, image_size=224)
    read = load_model("torchvision:vit_b_16", path).preprocessing
    assert (read.size, read.resize_to, read.interpolation) == ((224, 224), 256, "bilinear")
    assert read.mean == (0.485, 0.456, 0.406)


def test_wrong_mapping_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = saved(tmp_path)
    monkeypatch.setattr(
        torchvision_vit,
        "LayerNorm",
        lambda width, eps, **options: torch.nn.LayerNorm(width, eps=0.5, **options),
    )
    with pytest.raises(
        ParityError, match="cannot map torchvision:vit_b_16 to the canonical ViT: outputs differ"
    ):
        load_model("torchvision:vit_b_16", path)


def test_refusals(tmp_path: Path) -> None:
    path, module = saved(tmp_path)
    assert error_of("torchvision:vit_b_17", path) == (
        "cannot load torchvision:vit_b_17: only torchvision's vit_b_16, vit_b_32, vit_l_16, vit_l_32, vit_h_14 "
        "are supported. Did you mean torchvision:vit_b_16."
    )
    assert error_of("torchvision:vit_l_16", path) == (
        f"cannot load {path} into torchvision:vit_l_16: the weights are of another model: embed dim 24 where it "
        "has 1024, depth 2 where it has 24. Use torchvision:vit_b_16."
    )
    assert error_of("vit_tiny_patch16_224", path) == (
        f"cannot load {path} into vit_tiny_patch16_224: the weights are of another model: embed dim 24 where it "
        "has 192, depth 2 where it has 12. Use torchvision:vit_b_16."
    )
    assert error_of("torchvision:vit_b_16", path, size=(96, 96)) == (
        "cannot load torchvision:vit_b_16 at 96x96: its weights are for 64x64. Load it at its own size."
    )
    assert error_of("torchvision:vit_b_16", path, num_classes=3) == (
        "cannot load torchvision:vit_b_16 with 3 classes: it gives 5 logits. "
        "Ask for 5 classes, or give the weights of a model with 3."
    )
    weights = module.state_dict()
    torch.save({key: value for key, value in weights.items() if not key.startswith("heads")}, path)
    assert error_of("torchvision:vit_b_16", path) == (
        f"cannot load {path} into torchvision:vit_b_16: the weights have no classifier (heads.head). "
        "Give those of a fine-tuned model."
    )
    torch.save(weights | {"extra": torch.ones(1)}, path)
    assert error_of("torchvision:vit_b_16", path) == (
        f"cannot load {path} into torchvision:vit_b_16: 1 unexpected (extra). "
        "Name the model these weights were saved from."
    )
    torch.save({"a": torch.ones(1)}, path)
    assert error_of("torchvision:vit_b_16", path) == (
        f"cannot load {path} into torchvision:vit_b_16: its keys are not torchvision's (the first is a). "
        "Give the timm name of the model instead."
    )
