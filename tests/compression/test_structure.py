"""A smaller model comes back from disk as it was, whatever was taken from it."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgevit.compression.head_choice import drop_heads, heads_of
from edgevit.compression.magnitude import drop_lightest_heads, drop_lightest_neurons
from edgevit.compression.neurons import keep_neurons, neurons_of
from edgevit.compression.resolution import change_resolution
from edgevit.compression.structure import Structure, load, multiplications, save, structure_of
from edgevit.conversion.compression import require_reducible
from edgevit.errors import InputError
from edgevit.export import export_onnx, parity
from edgevit.images.preprocessing import Preprocessing
from edgevit.models import LoadedModel
from tests.vits import images, random_vit, vits


def plain(model: Any) -> bool:
    """No norm that spans all heads or neurons: what pruning accepts."""
    norms = [norm for block in model.blocks for norm in (block.attn.norm, block.mlp.norm)]
    return all(isinstance(norm, nn.Identity) for norm in norms)


def made_smaller(model: Any, data: st.DataObject) -> Any:
    """A copy at any other size, with any number of heads and neurons in each block."""
    rows, columns = (data.draw(st.integers(1, 4)) for _ in range(2))
    height, width = model.patch_embed.patch_size
    smaller: Any = change_resolution(model, (rows * height, columns * width))
    for block in smaller.blocks:
        gone = data.draw(st.integers(0, block.attn.num_heads - 1))
        drop_heads(block.attn, data.draw(st.permutations(range(block.attn.num_heads)))[:gone])
        neurons = block.mlp.fc1.out_features
        keep_neurons(block.mlp, torch.arange(neurons)[: data.draw(st.integers(1, neurons))])
    return smaller


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(model=vits().filter(plain), data=st.data())
def test_any_smaller_vit_comes_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, model: Any, data: st.DataObject
) -> None:
    folder, before = tmp_path_factory.mktemp("saved"), copy.deepcopy(model.state_dict())
    smaller = made_smaller(model, data)
    save(smaller, folder)
    structure = Structure.from_json(structure_of(smaller).to_json())
    again = load(model, structure, folder)
    assert all(torch.equal(again.state_dict()[name], value) for name, value in smaller.state_dict().items())
    inputs = images(smaller)
    with torch.inference_mode():  # the memory order of resampled positions may differ, and so the rounding
        torch.testing.assert_close(again(inputs), smaller(inputs), rtol=1e-4, atol=1e-5)
    assert not again.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.slow
@settings(max_examples=5, deadline=None)
@given(model=vits().filter(plain), data=st.data())
def test_any_smaller_vit_exports(
    tmp_path_factory: pytest.TempPathFactory, model: Any, data: st.DataObject
) -> None:
    smaller = made_smaller(model, data).requires_grad_(False)
    size, channels = tuple(smaller.patch_embed.img_size), smaller.in_chans
    folder = tmp_path_factory.mktemp("exported")
    pixels = np.random.default_rng(0).integers(0, 256, (2, *size, channels), dtype=np.uint8)
    order = {1: "L", 3: "RGB"}.get(channels, "RGB")
    normal = Preprocessing(size=size, mean=(0.5,) * channels, std=(0.5,) * channels, channels=order)
    assert parity(export_onnx(smaller, size, channels, folder / "model.onnx"), smaller, pixels, normal) < 1e-3


def test_multiplications_are_those_the_layers_do() -> None:
    model = random_vit(num_heads=3, mlp_ratio=2.0, img_size=(32, 48))
    drop_heads(model.blocks[0].attn, [1])
    counted = [0]

    def count(layer: Any, inputs: Any, output: torch.Tensor) -> None:
        positions = output.numel() // output.shape[0] // layer.weight.shape[0]
        counted[0] += positions * layer.weight.numel()

    for layer in model.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            layer.register_forward_hook(count)
    model(images(model, 1))
    tokens = 6 + 1
    attention = sum(2 * tokens**2 * block.attn.attn_dim for block in model.blocks)
    assert multiplications(model) == counted[0] + attention


def test_the_lightest_heads_go_first_and_every_block_keeps_one() -> None:
    model = random_vit()
    with torch.no_grad():
        model.blocks[0].attn.proj.weight[:, 8:] *= 1e-3
        model.blocks[1].attn.proj.weight[:, :8] *= 1e-2
    assert heads_of(drop_lightest_heads(model, 3)) == (1, 2)
    assert heads_of(drop_lightest_heads(model, 4)) == (1, 1)
    assert heads_of(model) == (3, 3)


def test_the_lightest_neurons_go_first_in_whole_blocks_of_the_alignment() -> None:
    model = random_vit(mlp_ratio=2.0)
    with torch.no_grad():
        model.blocks[1].mlp.fc2.weight[:, ::2] *= 1e-3
    thinner = drop_lightest_neurons(model, 18, 8)
    assert neurons_of(thinner) == (48, 32)
    kept = thinner.blocks[1].mlp.fc2.weight  # type: ignore[union-attr,index]
    assert float(kept[:, :24].detach().abs().max()) > 0.01


def test_a_model_of_another_kind_is_refused() -> None:
    loaded = LoadedModel("net", nn.Linear(2, 2), Preprocessing(size=(8, 8)), 2, False, "file")
    with pytest.raises(InputError) as error:
        require_reducible(loaded)
    assert str(error.value) == (
        "cannot make net smaller: Linear is not timm's VisionTransformer. "
        "Leave --prune-heads, --prune-mlp and --recover out for this model."
    )
