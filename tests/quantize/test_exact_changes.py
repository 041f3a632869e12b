"""Every conditioning step keeps the function, whatever the ViT looks like."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from edgevit.backends.rknn.backend import FUSION
from edgevit.errors import InputError
from edgevit.quantize import conditioning, equalization
from edgevit.quantize.activations import forward, prepared, why_not_tapped
from edgevit.quantize.rotation import (
    centre_stream,
    learned_rotation,
    random_rotation,
    rotate,
    structured_rotation,
    why_not_rotated,
)
from edgevit.quantize.statistics import collect
from edgevit.quantize.tensor_names import tap_names
from edgevit.rewrites.equivalence import apply_rewrites
from edgevit.rewrites.last_block import trim_last_block
from edgevit.targets.profiles import load_board, shipped
from tests.vits import images, random_vit, vits

MOVES = (
    equalization.centre_values,
    equalization.centre_keys,
    equalization.equalise_values,
    equalization.equalise_queries,
)


def same(model: Any, changed: Any, inputs: torch.Tensor) -> None:
    """Compared in double, where only a wrong formula shows."""
    with torch.inference_mode():
        expected = copy.deepcopy(model).double()(inputs.double())
        found = forward(copy.deepcopy(changed).double(), inputs.double())
    scale = max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(found, expected, atol=2e-5 * scale, rtol=0)


@settings(max_examples=10, deadline=None)
@given(vits(pre_norm=(False,), own_norms=(False,)), st.integers(0, 99))
def test_conditioning_any_vit_keeps_its_function(model: Any, seed: int) -> None:
    assume(why_not_tapped(model) is None)
    vit, inputs = prepared(model), images(model)
    same(model, vit, inputs)
    statistics = collect(vit, inputs, seed=seed)
    changed = vit
    for move in MOVES:
        changed = move(changed, statistics)
        same(model, changed, inputs)
    if why_not_rotated(vit) is None and vit.embed_dim > 2:
        changed = centre_stream(rotate(changed, random_rotation(vit.embed_dim, seed)))
        same(model, rotate(changed, structured_rotation(vit.embed_dim, seed)), inputs)


def test_conditioning_follows_the_trimmed_last_block() -> None:
    model = random_vit(class_token=True, global_pool="token")
    vit = prepared(trim_last_block(model).module)
    statistics = collect(vit, images(model), seed=0)
    changed = rotate(equalization.centre_values(vit, statistics), random_rotation(24, 0))
    same(model, changed, images(model))


@pytest.mark.parametrize("dim", [3, 24, 192, 384, 768])
@pytest.mark.parametrize("make", [random_rotation, structured_rotation])
def test_rotations_are_orthogonal_and_keep_ones(dim: int, make: Any) -> None:
    rotation = make(dim, 1)
    np.testing.assert_allclose(rotation.T @ rotation, np.eye(dim), atol=1e-12)
    np.testing.assert_allclose(rotation.T @ np.ones(dim), np.ones(dim), atol=1e-12)


@pytest.mark.parametrize("make", [random_rotation, structured_rotation])
def test_a_seed_gives_one_rotation(make: Any) -> None:
    np.testing.assert_array_equal(make(48, 5), make(48, 5))
    assert not np.allclose(make(48, 5), make(48, 6))


def test_structured_rotation_spreads_one_channel_over_all() -> None:
    spread = np.abs(structured_rotation(192, 0)[41])
    assert spread.max() < 3 / np.sqrt(192)


def test_learned_rotation_narrows_the_stream_and_keeps_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(500, 24, generator=generator)
    rows[:, 3] *= 20
    start = np.eye(24)
    rotation = learned_rotation(start, [(rows, 1.0)], steps=80)
    np.testing.assert_allclose(rotation.T @ rotation, np.eye(24), atol=1e-9)
    np.testing.assert_allclose(rotation.T @ np.ones(24), np.ones(24), atol=1e-9)
    assert float((rows @ torch.from_numpy(rotation).float()).abs().max()) < 0.6 * float(rows.abs().max())


def test_a_norm_before_the_blocks_is_refused() -> None:
    """What it reads is no tensor of a block: in CLIP the class token is lost there, so its graph is searched."""
    with pytest.raises(InputError) as caught:
        prepared(random_vit(pre_norm=True))
    assert "a norm before its blocks reads the embedded tokens" in str(caught.value)


def test_a_model_that_is_not_a_vit_is_refused() -> None:
    with pytest.raises(InputError) as caught:
        prepared(torch.nn.Linear(2, 2).eval())
    assert str(caught.value) == (
        "cannot condition this model for int8: Linear is not timm's VisionTransformer. "
        "Choose a recipe without conditioning."
    )


def test_centred_values_have_no_mean() -> None:
    vit = prepared(random_vit())
    statistics = collect(vit, images(vit, 8), seed=0)
    after = collect(equalization.centre_values(vit, statistics), images(vit, 8), seed=0)
    for block in range(2):
        assert float(after[f"blocks.{block}.v"].rows.mean(0).abs().max()) < 1e-4


def test_every_tap_is_called_once_where_its_tensor_is_made() -> None:
    vit, made = prepared(random_vit()), []

    def tap(name: str, value: torch.Tensor, reader: str = "") -> torch.Tensor:
        made.extend([] if reader else [name])
        return value

    forward(vit, images(vit), tap)
    assert made == tap_names(2)


@pytest.mark.parametrize("board", [name for name in shipped("boards") if load_board(name).backend == "rknn"])
def test_the_flat_forward_pass_computes_what_each_boards_rewrites_do(board: str) -> None:
    profile = load_board(board)
    model = random_vit(class_token=True, global_pool="token")
    inputs = images(model, 4)
    rewritten, _ = apply_rewrites(model, profile.rewrites, inputs, npu=profile.npu)
    same(rewritten, prepared(rewritten), inputs)


def unevenness(vit: Any, inputs: torch.Tensor) -> float:
    """How far the channels of q and k are from being as wide as each other, relative to the widest."""
    statistics = collect(vit, inputs, seed=0)
    gaps = []
    for index in range(len(vit.blocks)):
        q, k = (statistics[f"blocks.{index}.{name}"].rows.abs().amax(0) for name in ("q", "k"))
        gaps.append(float((q / q.max() - k / k.max()).abs().mean()))
    return sum(gaps) / len(gaps)


def test_each_transform_reads_what_the_ones_before_it_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys with a strong bias are uneven until they are centred: what evens them must see them centred."""
    model = random_vit(seed=5, embed_dim=24, patch_size=8)
    with torch.no_grad():
        for block in model.blocks:  # type: ignore[union-attr]
            dim = block.attn.attn_dim  # type: ignore[union-attr]
            block.attn.qkv.bias[dim : 2 * dim] = torch.linspace(-8, 8, dim)  # type: ignore[union-attr]
    vit, inputs = prepared(model), images(model, 16)
    attention = [make for kinds, make in conditioning.TRANSFORMS if kinds == conditioning.ATTENTION]
    centre_keys, given = attention[1], []

    def record(vit: Any, statistics: Any, *_: Any) -> Any:
        given.append(statistics)
        yield "equalise-queries", "", equalization.equalise_queries(vit, statistics)

    order = ((conditioning.ATTENTION, centre_keys), (conditioning.ATTENTION, record))
    monkeypatch.setattr(conditioning, "TRANSFORMS", order)
    _, (centred, _) = conditioning.condition(vit, inputs, FUSION, seed=0)
    assert centred.kept
    before = collect(vit, inputs[:8], seed=0)
    assert float(given[0]["blocks.0.k"].rows.mean(0).abs().max()) < 0.5
    assert float(before["blocks.0.k"].rows.mean(0).abs().max()) > 5
    centred_vit = equalization.centre_keys(vit, before)
    evened = equalization.equalise_queries(centred_vit, given[0])
    assert unevenness(evened, inputs[:8]) < 0.1 * unevenness(vit, inputs[:8])
    stale = equalization.equalise_queries(centred_vit, before)
    assert unevenness(stale, inputs[:8]) > 0.5 * unevenness(vit, inputs[:8])


@pytest.mark.parametrize(
    ("multiplications", "available", "half"),
    [(1e9, 256, 64), (17e9, 256, 17), (1e12, 64, 8), (1e9, 20, 10), (0, 9, 4)],
)
def test_a_large_model_is_looked_at_on_fewer_images(
    multiplications: float, available: int, half: int
) -> None:
    assert conditioning.images_of_a_half(multiplications, available) == half
