"""Heads and neurons that really disappear, and what least squares makes up for."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgevit.compression.head_choice import drop_heads
from edgevit.compression.head_importance import head_importance, plot_importance
from edgevit.compression.heads import prune_heads
from edgevit.compression.neurons import prune_mlp
from edgevit.errors import InputError
from edgevit.rewrites.canonical import why_not_canonical
from edgevit.rewrites.equivalence import EXACT, apply_rewrites
from tests.vits import images, random_vit, vits


def outputs(model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model(inputs)


def plain(model: Any) -> bool:
    return all(isinstance(block.attn.norm, nn.Identity) for block in model.blocks)


@settings(max_examples=30, deadline=None)
@given(model=vits(), data=st.data())
def test_any_number_of_heads_leaves_any_vit_canonical(model: Any, data: st.DataObject) -> None:
    heads = [block.attn.num_heads for block in model.blocks]
    count = data.draw(st.integers(0, sum(heads) - len(heads)))
    inputs, before = images(model, 8), copy.deepcopy(model.state_dict())
    if not plain(model):
        with pytest.raises(InputError, match=r"blocks\.0\.attn\.norm spans all heads"):
            prune_heads(model, count, inputs)
        return
    pruned = prune_heads(model, count, inputs)
    assert sum(pruned.heads) == sum(heads) - count and min(pruned.heads) >= 1
    assert why_not_canonical(pruned.module) is None
    assert [block.attn.num_heads for block in pruned.module.blocks] == list(pruned.heads)
    assert torch.isfinite(outputs(pruned.module, inputs)).all()
    if count == 0:
        torch.testing.assert_close(outputs(pruned.module, inputs), outputs(model, inputs), rtol=0, atol=0)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@settings(max_examples=20, deadline=None)
@given(model=vits().filter(plain), data=st.data())
def test_a_head_whose_projection_is_zero_is_dropped_exactly(model: Any, data: st.DataObject) -> None:
    block = data.draw(st.sampled_from(list(model.blocks)))
    head = data.draw(st.integers(0, block.attn.num_heads - 1))
    if block.attn.num_heads == 1:
        return
    size = block.attn.head_dim
    with torch.no_grad():
        block.attn.proj.weight[:, head * size : (head + 1) * size] = 0
    inputs = images(model)
    expected = outputs(model, inputs)
    drop_heads(block.attn, [head])
    torch.testing.assert_close(outputs(model, inputs), expected, rtol=1e-5, atol=1e-5)


def twins(**options: Any) -> Any:
    """A ViT whose heads 0 and 2 of block 1 compute the same."""
    model = random_vit(**options)
    attention = model.blocks[1].attn
    size, dim = attention.head_dim, attention.attn_dim
    with torch.no_grad():
        for part in range(3):
            rows = attention.qkv.weight[part * dim :]
            rows[2 * size : 3 * size] = rows[:size]
            if attention.qkv.bias is not None:
                bias = attention.qkv.bias[part * dim :]
                bias[2 * size : 3 * size] = bias[:size]
    return model


@pytest.mark.parametrize(
    "options",
    [{"qkv_bias": True}, {"qk_norm": True, "proj_bias": False}, {"init_values": 0.1, "reg_tokens": 2}],
)
def test_of_two_equal_heads_one_goes_and_the_other_makes_up_for_it(options: dict[str, Any]) -> None:
    model = twins(img_size=(48, 64), **options)
    inputs = images(model, 24)
    pruned = prune_heads(model, 1, inputs)
    assert pruned.removed[0].block == 1 and pruned.removed[0].head in (0, 2)
    assert pruned.dropped.kl > 100 * max(pruned.refitted.kl, 1e-6)
    torch.testing.assert_close(outputs(pruned.module, inputs), outputs(model, inputs), rtol=1e-2, atol=1e-2)


def test_refitting_beats_dropping_on_images_not_seen() -> None:
    model = random_vit(img_size=64, depth=3)
    pruned = prune_heads(model, 3, images(model, 64))
    assert pruned.refitted.kl < pruned.dropped.kl
    dropped = copy.deepcopy(model)
    for index, block in enumerate(dropped.blocks):
        drop_heads(block.attn, [removal.head for removal in pruned.removed if removal.block == index])
    fresh = images(model, 32, seed=99)
    expected = outputs(model, fresh)
    errors = [(outputs(other, fresh) - expected).square().mean() for other in (pruned.module, dropped)]
    assert errors[0] < errors[1]


def test_a_pruned_model_takes_all_exact_rewrites() -> None:
    model = random_vit(depth=3, init_values=0.1)
    pruned = prune_heads(model, 4, images(model, 8)).module
    _, records = apply_rewrites(pruned, list(EXACT), images(model))
    assert [record.name for record in records if record.changed][:2] == ["fold-layer-scale", "fold-norms"]


def test_a_fraction_is_of_all_heads() -> None:
    model = random_vit(depth=3)
    assert len(prune_heads(model, 0.34, images(model, 8)).removed) == 3


def test_the_same_seed_prunes_the_same() -> None:
    model = random_vit()
    first, second = (prune_heads(model, 2, images(model, 8)) for _ in range(2))
    assert first.removed == second.removed
    inputs = images(model)
    torch.testing.assert_close(outputs(first.module, inputs), outputs(second.module, inputs), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("amount", "line"),
    [
        (
            5,
            "cannot remove 5 heads: the model has 6 and each of its 2 blocks keeps one. Use a number from 0 to 4.",
        ),
        (
            -1,
            "cannot remove -1 heads: the model has 6 and each of its 2 blocks keeps one. Use a number from 0 to 4.",
        ),
        (1.5, "cannot remove 1.5 of the heads: a fraction is between 0 and 1. Use 0.15."),
    ],
)
def test_more_heads_than_there_are_to_spare_are_refused(amount: int | float, line: str) -> None:
    model = random_vit()
    with pytest.raises(InputError) as error:
        prune_heads(model, amount, images(model, 8))
    assert str(error.value) == line


def test_a_rewritten_model_is_refused() -> None:
    model, _ = apply_rewrites(random_vit(), ["trim-tokens"], images(random_vit()))
    with pytest.raises(InputError) as error:
        prune_heads(model, 1, images(model, 8))
    assert str(error.value) == (
        "cannot apply head pruning: blocks.1 is already rewritten. "
        "Leave it out, or apply it before the rewrites."
    )


def test_too_few_images_are_refused() -> None:
    model = random_vit()
    with pytest.raises(InputError) as error:
        prune_heads(model, 1, images(model, 3))
    assert str(error.value) == "cannot fit on so few images: 3 given, 4 needed. Give 64 or more."


def test_importance_prices_every_head_and_the_cheapest_ones() -> None:
    model = twins(depth=2)
    found = head_importance(model, images(model, 24))
    assert [(price.block, price.head) for price in found.prices] == [
        (b, h) for b in (0, 1) for h in (0, 1, 2)
    ]
    cheapest, total = found.cheapest(1)
    assert cheapest[0].block == 1 and cheapest[0].head in (0, 2)
    assert total == cheapest[0].refitted < cheapest[0].dropped
    values = found.to_json()
    assert len(values["cheapest"]) == 4 and values["cheapest"] == sorted(values["cheapest"])
    with pytest.raises(InputError) as error:
        found.cheapest(5)
    assert str(error.value) == "cannot remove 5 heads: each block keeps one. Use 4 or fewer."


def test_importance_can_be_seen(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    model = random_vit()
    plot_importance(head_importance(model, images(model, 8)), tmp_path / "heads.png")
    assert (tmp_path / "heads.png").read_bytes().startswith(b"\x89PNG")


def test_neurons_leave_in_whole_blocks_of_the_alignment() -> None:
    model = random_vit(mlp_ratio=4.0)
    thinned = prune_mlp(model, 0.25, images(model, 16), alignment=8)
    assert thinned.removed == 48 and sum(thinned.neurons) == 192 - 48
    assert all(neurons % 8 == 0 for neurons in thinned.neurons)
    assert [block.mlp.fc1.out_features for block in thinned.module.blocks] == list(thinned.neurons)
    assert why_not_canonical(thinned.module) is None
    assert thinned.refitted.kl < thinned.dropped.kl


def test_repeated_neurons_go_without_a_trace() -> None:
    model = random_vit(mlp_ratio=4.0, img_size=64)
    for block in model.blocks:
        with torch.no_grad():
            block.mlp.fc1.weight[8:16] = block.mlp.fc1.weight[:8]
            block.mlp.fc1.bias[8:16] = block.mlp.fc1.bias[:8]
    inputs = images(model, 24)
    thinned = prune_mlp(model, 16 / 192, inputs, alignment=8)
    assert thinned.neurons == (88, 88)
    torch.testing.assert_close(outputs(thinned.module, inputs), outputs(model, inputs), rtol=2e-2, atol=2e-2)
    assert thinned.dropped.kl > 1000 * thinned.refitted.kl


def test_no_neurons_removed_is_the_same_model() -> None:
    model = random_vit()
    inputs = images(model, 8)
    thinned = prune_mlp(model, 0.0, inputs)
    torch.testing.assert_close(outputs(thinned.module, inputs), outputs(model, inputs), rtol=0, atol=0)


def test_a_norm_over_all_neurons_is_refused() -> None:
    model = random_vit(scale_mlp_norm=True)
    with pytest.raises(InputError) as error:
        prune_mlp(model, 0.2, images(model, 8))
    assert str(error.value) == (
        "cannot apply MLP pruning: blocks.0.mlp.norm spans all neurons. Leave --prune-mlp out."
    )
