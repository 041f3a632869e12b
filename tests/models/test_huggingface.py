from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from edgevit import torch_setup  # noqa: F401
from edgevit.errors import InputError, ParityError
from edgevit.models import load_model
from edgevit.models.huggingface_preprocessing import preprocessing_of

transformers = pytest.importorskip("transformers")


def save(folder: Path, kind: str, **options: Any) -> Any:
    """A tiny classifier with random weights, biases and tokens included, saved as transformers does."""
    torch.manual_seed(0)
    settings = {
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 50,
        "image_size": 32,
        "patch_size": 8,
        "num_labels": 5,
    } | options
    config = transformers.ViTConfig if kind.startswith("ViT") else transformers.DeiTConfig
    model = getattr(transformers, kind)(config(**settings)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    model.save_pretrained(folder)
    return model


def difference(folder: Path, original: Any) -> float:
    loaded = load_model(str(folder))
    images = torch.randn(3, len(loaded.preprocessing.mean), *loaded.preprocessing.size)
    with torch.no_grad():
        return float((loaded.module(images) - original(images).logits).abs().max())


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("ViTForImageClassification", {}),
        ("ViTForImageClassification", {"qkv_bias": False, "layer_norm_eps": 1e-2}),
        ("ViTForImageClassification", {"hidden_act": "gelu_new", "num_channels": 1}),
        ("ViTForImageClassification", {"hidden_act": "quick_gelu", "num_labels": 1}),
        ("ViTForImageClassification", {"hidden_act": "relu"}),
        ("ViTForImageClassification", {"hidden_act": "silu"}),
        ("DeiTForImageClassification", {}),
        ("DeiTForImageClassificationWithTeacher", {}),
    ],
)
def test_mapped_model_gives_the_logits_of_transformers(
    tmp_path: Path, kind: str, options: dict[str, Any]
) -> None:
    original = save(tmp_path, kind, **options)
    assert difference(tmp_path, original) < 1e-4


def test_plain_vit_is_canonical_with_parity(tmp_path: Path) -> None:
    save(tmp_path, "ViTForImageClassification", num_labels=3, id2label={0: "cat", 1: "dog", 2: "cow"})
    loaded = load_model(str(tmp_path))
    assert loaded.canonical
    assert loaded.num_classes == 3
    assert loaded.labels == ("cat", "dog", "cow")
    assert loaded.parity is not None and loaded.parity < 1e-4
    assert loaded.source == f"Hugging Face ViTForImageClassification in {tmp_path.name}"


def test_distilled_deit_keeps_both_heads(tmp_path: Path) -> None:
    save(tmp_path, "DeiTForImageClassificationWithTeacher")
    loaded = load_model(str(tmp_path))
    assert loaded.canonical
    assert loaded.parity is not None and loaded.parity < 1e-4
    assert loaded.labels is None


def test_shards_and_bin_files_are_read(tmp_path: Path) -> None:
    original = save(tmp_path / "one", "ViTForImageClassification")
    original.save_pretrained(tmp_path / "many", max_shard_size="20KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 1
    assert difference(tmp_path / "many", original) < 1e-4
    from safetensors.torch import load_file

    single = tmp_path / "one" / "model.safetensors"
    torch.save(load_file(single), single.with_name("pytorch_model.bin"))
    single.unlink()
    assert difference(tmp_path / "one", original) < 1e-4
    next((tmp_path / "many").glob("*-00002-*.safetensors")).unlink()
    with pytest.raises(InputError, match="cannot read weights .*00002.*: no such file. Check the path."):
        load_model(str(tmp_path / "many"))


def test_wrong_mapping_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, "ViTForImageClassification")
    monkeypatch.setitem(
        __import__("edgevit.models.huggingface", fromlist=["BLOCK"]).BLOCK, "layernorm_before", "norm2"
    )
    monkeypatch.setitem(
        __import__("edgevit.models.huggingface", fromlist=["BLOCK"]).BLOCK, "layernorm_after", "norm1"
    )
    with pytest.raises(ParityError, match="cannot map .* to the canonical ViT: outputs differ by"):
        load_model(str(tmp_path))


def change(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


def error_of(folder: Path, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        load_model(str(folder), **options)
    return str(caught.value).replace(str(folder), "DIR")


def test_refusals(tmp_path: Path) -> None:
    assert error_of(tmp_path) == (
        "cannot load DIR: it has no config.json. Give a directory written by save_pretrained(), or a timm name."
    )
    save(tmp_path, "ViTForImageClassification")
    assert error_of(tmp_path, num_classes=7) == (
        "cannot load DIR with 7 classes: it gives 5 logits. "
        "Ask for 5 classes, or give the weights of a model with 7."
    )
    assert error_of(tmp_path, size=(64, 64)) == (
        "cannot load DIR at 64x64: its weights are for 32x32. Load it at its own size."
    )
    assert error_of(tmp_path, weights=tmp_path / "w.pth") == (
        "cannot load DIR: a directory brings its own weights. Leave --weights out, or name a timm model."
    )
    change(tmp_path, hidden_act="gelu_10")
    assert error_of(tmp_path) == (
        "cannot load DIR: hidden_act 'gelu_10' is not supported; gelu, gelu_new, gelu_pytorch_tanh, quick_gelu, "
        "relu, silu, swish are. Write a Python file that builds it and name that (file.py:function)."
    )
    change(tmp_path, hidden_act="gelu", num_hidden_layers=3)
    assert error_of(tmp_path) == (
        "cannot load DIR into the model of DIR/config.json: 12 missing (blocks.2.norm1.weight, "
        "blocks.2.norm1.bias, blocks.2.attn.qkv.weight, ...). "
        "The weights are of another model: depth 2 where it has 3."
    )
    change(tmp_path, architectures=["BeitForImageClassification"])
    assert "of its weights are missing (beit.embeddings.cls_token, " in error_of(tmp_path)
    change(tmp_path, architectures=["ViTForImageClassification"])
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text('{"architecture": "test_vit"}')  # timm's layout
    assert error_of(tmp_path).startswith("cannot load DIR/model.safetensors into test_vit: ")
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").unlink()
    change(tmp_path, architectures=["ViTForImageClassification"])
    assert error_of(tmp_path) == (
        "cannot load DIR: it has no weights (model.safetensors or pytorch_model.bin). "
        "Copy the whole directory that save_pretrained() wrote."
    )


def test_processor_of_vit_squashes_to_the_size(tmp_path: Path) -> None:
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    read = preprocessing_of(tmp_path, 3, (32, 32), [])
    assert (read.size, read.resized_size, read.crop_mode, read.interpolation) == (
        (32, 32),
        (32, 32),
        "squash",
        "bilinear",
    )
    assert read.mean == read.std == (0.5, 0.5, 0.5)


def test_processor_of_deit_crops_the_centre(tmp_path: Path) -> None:
    transformers.DeiTImageProcessor(image_mean=[0.4, 0.5, 0.6]).save_pretrained(tmp_path)
    read = preprocessing_of(tmp_path, 3, (224, 224), [])
    assert (read.size, read.resize_to, read.crop_mode, read.interpolation) == (
        (224, 224),
        256,
        "squash",
        "bicubic",
    )
    assert read.mean == (0.4, 0.5, 0.6)


@pytest.mark.parametrize(
    ("values", "mean", "std"),
    [
        ({"do_normalize": False}, 0.0, 1.0),
        ({"rescale_factor": 1 / 127.5, "image_mean": 1.0, "image_std": 1.0}, 0.5, 0.5),
        ({"do_rescale": False, "image_mean": 127.5, "image_std": 51.0}, 0.5, 0.2),
    ],
)
def test_rescaling_is_folded_into_mean_and_deviation(
    tmp_path: Path, values: dict[str, Any], mean: float, std: float
) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": 32} | values))
    read = preprocessing_of(tmp_path, 3, (32, 32), [])
    assert read.mean == pytest.approx((mean,) * 3)
    assert read.std == pytest.approx((std,) * 3)


def test_missing_processor_is_said_and_wrong_size_refused(tmp_path: Path) -> None:
    notes: list[str] = []
    assert preprocessing_of(tmp_path, 3, (32, 32), notes).mean == (0.5, 0.5, 0.5)
    assert notes == [
        "no preprocessor_config.json: preprocessing assumed, 32x32 bilinear without crop, "
        "mean and deviation 0.5"
    ]
    (tmp_path / "preprocessor_config.json").write_text('{"size": 64}')
    with pytest.raises(InputError) as caught:
        preprocessing_of(tmp_path, 3, (32, 32), [])
    assert str(caught.value) == (
        f"cannot load {tmp_path}: preprocessor_config.json gives 64x64 images and the model takes 32x32. "
        "Correct the size in preprocessor_config.json."
    )


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"num_attention_heads": 5}, "5 num_attention_heads don't divide hidden_size 24"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0: Input should be greater than 0"),
        ({"patch_size": 0}, "patch_size.0 is 0: Input should be greater than 0"),
        ({"patch_size": 64}, "patch_size [64, 64] is larger than image_size [32, 32]"),
        ({"image_size": [32]}, "image_size.1 is [32]: Field required"),
        ({"hidden_size": "x"}, 'hidden_size is "x": Input should be a valid integer'),
        (
            {"num_hidden_layers": 10**9},
            "num_hidden_layers is 1000000000: Input should be less than or equal to 1000",
        ),
        ({"hidden_act": ["gelu"]}, 'hidden_act is ["gelu"]: Input should be a valid string'),
        ({"layer_norm_eps": None}, "layer_norm_eps is null: Input should be a valid number"),
        ({"layer_norm_eps": 0}, "layer_norm_eps is 0: Input should be greater than 0"),
        ({"architectures": "ViT"}, 'architectures is "ViT": Input should be a valid tuple'),
        ({"architectures": [3]}, "architectures.0 is 3: Input should be a valid string"),
    ],
)
def test_wrong_values_of_the_configuration_are_named(
    tmp_path: Path, values: dict[str, Any], why: str
) -> None:
    save(tmp_path, "ViTForImageClassification")
    change(tmp_path, **values)
    assert error_of(tmp_path) == (
        f"cannot use DIR/config.json: {why}. Correct the file, or copy or download it again."
    )


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"size": {"height": "x", "width": 2}}, 'size.height is "x": Input should be a valid integer'),
        ({"size": {}}, "size has neither height and width nor shortest_edge"),
        ({"size": "x"}, 'size is "x": Input should be a number, a pair, or height and width'),
        ({"crop_size": {"height": 32}}, "crop_size has neither height and width nor shortest_edge"),
        ({"image_mean": None}, "image_mean.0 is null: Input should be a valid number"),
        ({"image_mean": []}, "image_mean is []: Value should have at least 1 item after validation, not 0"),
        ({"image_mean": [0.5, 0.5]}, "image_mean has 2 values for 3 channels"),
        ({"image_std": [0, 0.5, 0.5]}, "image_std.0 is 0: Input should be greater than 0"),
        ({"rescale_factor": 0}, "rescale_factor is 0: Input should be greater than 0"),
        ({"resample": 99}, "resample is 99: PIL's filters are 0 to 5"),
        ({"do_resize": "yes"}, 'do_resize is "yes": Input should be a valid boolean'),
    ],
)
def test_wrong_values_of_the_processor_are_named(tmp_path: Path, values: dict[str, Any], why: str) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": 32} | values))
    with pytest.raises(InputError) as caught:
        preprocessing_of(tmp_path, 3, (32, 32), [])
    assert str(caught.value) == (
        f"cannot use {tmp_path}/preprocessor_config.json: {why}. "
        "Correct the file, or copy or download it again."
    )


def test_one_missing_third_of_an_attention_is_named(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    save(tmp_path, "ViTForImageClassification")
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    del weights["vit.encoder.layer.1.attention.attention.key.weight"]
    save_file(weights, file)
    assert error_of(tmp_path) == (
        "cannot load DIR: its weights have encoder.layer.1.attention.attention.query.weight but no "
        "encoder.layer.1.attention.attention.key.weight. Copy or download the directory again."
    )


def test_index_that_points_elsewhere_is_refused(tmp_path: Path) -> None:
    save(tmp_path, "ViTForImageClassification")
    (tmp_path / "model.safetensors").unlink()
    index = tmp_path / "model.safetensors.index.json"
    for listed in ({}, {"a": "../other.safetensors"}, {"a": 3}, {"a": []}, ["a"]):
        index.write_text(json.dumps({"weight_map": listed}))
        assert error_of(tmp_path) == (
            "cannot read DIR/model.safetensors.index.json: it lists no weights files. Copy or download it again."
        )


def test_names_that_transformers_has_in_memory_are_read(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    original = save(tmp_path, "ViTForImageClassification")
    save_file(original.state_dict(), tmp_path / "model.safetensors")
    assert difference(tmp_path, original) < 1e-4
