"""Heads are priced in any model's graph, and there as in a plain ViT's modules."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from edgevit.compression.head_importance import Importance, Share, head_importance
from edgevit.compression.head_importance_of_graph import head_importance_of_graph, module_of
from edgevit.errors import InputError
from tests.compression.test_heads import images, twins
from tests.rewrites.graph.graphs import Classifier, graph_of, noise
from tests.rewrites.graph.test_attention_layers import Windows


def test_prices_are_those_of_the_modules() -> None:
    model = twins(depth=2)
    inputs = images(model, 24)
    ours = head_importance_of_graph(graph_of(model, 1, *inputs.shape[1:]), inputs)
    theirs = head_importance(model, inputs)
    assert (ours.heads, ours.images) == (theirs.heads, theirs.images)
    assert [each.dropped for each in ours.prices] == pytest.approx(
        [each.dropped for each in theirs.prices], rel=0.02, abs=1e-6
    )
    assert ours.cheapest(1)[0][0].block == theirs.cheapest(1)[0][0].block
    assert ours.names == ("blocks.0.attn", "blocks.1.attn")


@pytest.mark.parametrize("spelling", ["three layers", "torch's own"])
def test_a_refit_makes_up_for_a_head_that_another_repeats(spelling: str) -> None:
    torch.manual_seed(0)
    made = Classifier(spelling, patch=2, grid=3, dim=12, heads=3, depth=1).eval()
    with torch.no_grad():
        for layer in made.blocks[0].layers:  # type: ignore[union-attr]
            layer.weight[8:] = layer.weight[:4]
            if layer.bias is not None:
                layer.bias[8:] = layer.bias[:4]
    found = head_importance_of_graph(graph_of(made, 1, 3, 6, 6), torch.from_numpy(noise(24, 3, 6, 6)))
    assert found.heads == (3,)
    assert all(each.refitted <= each.dropped for each in found.prices)
    if spelling == "three layers":  # the first and the last head are twins
        assert found.prices[0].refitted < 1e-3 * found.prices[1].refitted
    assert found.to_json() == type(found).from_json(found.to_json()).to_json()


def test_heads_of_windows_of_convolutions_have_prices() -> None:
    torch.manual_seed(0)
    graph = graph_of(nn.Sequential(Windows(6, 2), nn.Flatten()), 1, 3, 4, 6)
    found = head_importance_of_graph(graph, torch.from_numpy(noise(12, 3, 4, 6)))
    assert found.heads == (2,)
    assert all(np.isfinite(each.refitted) and each.dropped > 0 for each in found.prices)


def test_a_model_without_attention_is_refused() -> None:
    made = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
    with pytest.raises(InputError) as error:
        head_importance_of_graph(graph_of(made, 1, 3, 6, 6), torch.from_numpy(noise(8, 3, 6, 6)))
    assert str(error.value) == (
        "cannot price the attention heads: no attention in the model's graph is read by a linear layer alone. "
        "Give a transformer whose attention has several heads."
    )


@pytest.mark.parametrize(
    ("tensor", "module"),
    [
        ("/blocks/blocks.3/attn/MatMul_1_output_0", "blocks.3.attn"),
        ("/model/layers/layers.0/blocks/blocks.1/attn/MatMul_output_0", "model.layers.0.blocks.1.attn"),
        ("matmul_7", "matmul_7"),
    ],
)
def test_attentions_are_called_by_their_modules(tensor: str, module: str) -> None:
    assert module_of(tensor) == module


@pytest.mark.parametrize("count", [1, 2, 5])
def test_prices_in_shares_are_the_prices(count: int) -> None:
    model = twins(depth=2)
    inputs = images(model, 24)
    graph = graph_of(model, 1, *inputs.shape[1:])
    for price in (partial(head_importance, model), partial(head_importance_of_graph, graph)):
        shares = [price(inputs, share=Share(number, count)) for number in range(count)]
        assert Importance.joined(shares) == price(inputs)
