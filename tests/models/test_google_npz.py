"""google-research's .npz files of vision transformers, read into timm's models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from edgevit import torch_setup  # noqa: F401
from edgevit.errors import InputError
from edgevit.models import load_model

import timm  # isort: skip

NAME, HEADS = "vit_tiny_patch16_224", 3


def written(
    path: Path, change: Callable[[dict[str, np.ndarray]], None] = lambda arrays: None
) -> torch.nn.Module:
    """A seeded model of timm's, written as google-research's training does."""
    torch.manual_seed(0)
    model = timm.create_model(NAME, num_classes=4).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    arrays = {
        "embedding/kernel": kernel(model.patch_embed.proj.weight),
        "embedding/bias": array(model.patch_embed.proj.bias),
        "cls": array(model.cls_token),
        "Transformer/posembed_input/pos_embedding": array(model.pos_embed),
        "Transformer/encoder_norm/scale": array(model.norm.weight),
        "Transformer/encoder_norm/bias": array(model.norm.bias),
        "head/kernel": kernel(model.head.weight),
        "head/bias": array(model.head.bias),
    }
    for number, block in enumerate(model.blocks):
        prefix = f"Transformer/encoderblock_{number}/"
        attention = prefix + "MultiHeadDotProductAttention_1/"
        for name, weight, bias in zip(
            ("query", "key", "value"),
            block.attn.qkv.weight.chunk(3),
            block.attn.qkv.bias.chunk(3),
            strict=True,
        ):
            width = weight.shape[0]
            arrays[f"{attention}{name}/kernel"] = kernel(weight).reshape(width, HEADS, width // HEADS)
            arrays[f"{attention}{name}/bias"] = array(bias).reshape(HEADS, width // HEADS)
        out = kernel(block.attn.proj.weight)
        arrays[f"{attention}out/kernel"] = out.reshape(HEADS, out.shape[0] // HEADS, out.shape[1])
        arrays[f"{attention}out/bias"] = array(block.attn.proj.bias)
        for number_of, layer in enumerate((block.mlp.fc1, block.mlp.fc2)):
            arrays[f"{prefix}MlpBlock_3/Dense_{number_of}/kernel"] = kernel(layer.weight)
            arrays[f"{prefix}MlpBlock_3/Dense_{number_of}/bias"] = array(layer.bias)
        for name, norm in (("LayerNorm_0", block.norm1), ("LayerNorm_2", block.norm2)):
            arrays[f"{prefix}{name}/scale"], arrays[f"{prefix}{name}/bias"] = (
                array(norm.weight),
                array(norm.bias),
            )
    change(arrays)
    np.savez(path, **arrays)
    return model


def array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().numpy()


def kernel(tensor: torch.Tensor) -> np.ndarray:
    """A weight in the order of axes that JAX has."""
    return array(tensor).transpose(2, 3, 1, 0) if tensor.ndim == 4 else array(tensor).T


def test_a_file_of_google_researchs_gives_the_models_outputs(tmp_path: Path) -> None:
    model = written(tmp_path / "weights.npz")
    loaded = load_model(NAME, tmp_path / "weights.npz")
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(loaded.module(images), model(images))
    assert loaded.num_classes == 4


def shorter(arrays: dict[str, np.ndarray]) -> None:
    for name in [each for each in arrays if "encoderblock_11/" in each]:
        del arrays[name]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda arrays: arrays.pop("head/kernel"), "it has no head/kernel, so no classifier. "),
        (shorter, "into vit_tiny_patch16_224: "),
        (
            lambda arrays: arrays.update({"cls": np.zeros((1, 1, 96), np.float32)}),
            "into vit_tiny_patch16_224: ",
        ),
        (
            lambda arrays: arrays.update({"Transformer/encoderblock_12/LayerNorm_0/scale": np.zeros(192)}),
            "it has 13 blocks and the model 12. Name the model that the file was trained as.",
        ),
    ],
)
def test_another_models_file_is_one_line(tmp_path: Path, change: Callable[..., None], line: str) -> None:
    written(tmp_path / "weights.npz", change)
    with pytest.raises(InputError) as caught:
        load_model(NAME, tmp_path / "weights.npz")
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"PK", b"text"])
def test_a_damaged_file_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "weights.npz").write_bytes(content)
    with pytest.raises(InputError, match="it is no sound .npz"):
        load_model(NAME, tmp_path / "weights.npz")


def test_a_pickle_inside_is_not_opened(tmp_path: Path) -> None:
    np.savez(tmp_path / "weights.npz", **{"head/kernel": np.array([{"code": 1}], dtype=object)})
    with pytest.raises(InputError, match="it is no sound .npz"):
        load_model(NAME, tmp_path / "weights.npz")
