"""Attention is recognised in whatever spelling, and written anew without changing what it computes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgevit.rewrites.graph.apply import outputs_of, rewrite_graph
from edgevit.rewrites.roles import ON_GRAPHS
from edgevit.targets.profiles import Npu
from tests.rewrites.graph.graphs import SPELLINGS, Attention, Classifier, graph_of, kinds, noise

EVERY = ON_GRAPHS
NPU = Npu(target="any", max_conv_stride=7, transpose_alignment=8)


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(
    spelling=st.sampled_from(SPELLINGS),
    patch=st.sampled_from([4, 8, 12]),
    grid=st.integers(1, 4),
    heads=st.integers(1, 4),
    width=st.sampled_from([4, 8]),
    mean=st.booleans(),
    names=st.sets(st.sampled_from(EVERY), min_size=1),
)
def test_any_rewrites_keep_any_spelling_s_function(
    spelling: str, patch: int, grid: int, heads: int, width: int, mean: bool, names: set[str]
) -> None:
    torch.manual_seed(heads * 100 + grid)
    model = Classifier(spelling, patch=patch, grid=grid, dim=heads * width, heads=heads, mean=mean)
    graph, images = graph_of(model, 1, 3, patch * grid, patch * grid), noise(2, 3, patch * grid, patch * grid)
    found = rewrite_graph(graph, list(names), images, NPU)
    assert [record.what for record in found.records if not record.changed] == []
    expected = model(torch.from_numpy(images)).detach().numpy()
    np.testing.assert_allclose(
        outputs_of(found.graph, images)[0].reshape(expected.shape), expected, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_comes_to_the_same_graph(spelling: str) -> None:
    model = Classifier(spelling, patch=8, grid=3, dim=12, heads=3)
    graph = graph_of(model, 1, 3, 24, 24)
    found = rewrite_graph(graph, EVERY, noise(2, 3, 24, 24), NPU)
    told = {record.name: record.what for record in found.records if record.changed}
    assert "Softmax" not in kinds(found.graph)
    assert told["split-strides"] == "strides beyond 7 run as chains of short ones, 1 more convolutions"
    assert told["trim-tokens"] == "1 attention computed only for tokens that are read"
    assert told["pad-tokens"] == "10 tokens padded to 16"
    assert told["softmax-by-norm"] == "2 softmaxes run as max-pool, ELU and L1 norm"


def test_heads_are_cut_out_of_one_layer_where_they_read_one_input() -> None:
    """Two linear layers a block, one for q, k and v, whatever the model had."""
    model = Classifier("three layers", patch=8, grid=2, dim=12, heads=3, mean=True)
    found = rewrite_graph(graph_of(model, 1, 3, 16, 16), ["softmax-by-norm"], noise(1, 3, 16, 16), NPU)
    products = [node for node in found.graph.graph.node if node.op_type == "MatMul"]
    weights = {each.name for each in found.graph.graph.initializer}
    assert sum(node.input[1] in weights for node in products) == 4


def test_heads_of_a_width_that_the_target_can_t_transpose_are_filled_up() -> None:
    model, images = Classifier("chunks", patch=8, grid=2, dim=12, heads=2, mean=True), noise(2, 3, 16, 16)
    graph = graph_of(model, 1, 3, 16, 16)
    found = rewrite_graph(graph, ["pad-heads"], images, NPU)
    assert [record.what for record in found.records] == ["heads of 2 attentions filled up"]
    shapes = {tuple(each.dims) for each in found.graph.graph.initializer}
    assert {(12, 48), (16, 12)} <= shapes  # q, k and v of two heads, 8 wide; the layer behind
    again = rewrite_graph(found.graph, ["pad-heads"], images, NPU)
    assert again.records == ()


def test_attention_in_more_groups_than_two_cuts_give_keeps_its_softmax() -> None:
    model, images = Biased(17, 8, 2), noise(1, 3, 17, 8)
    found = rewrite_graph(graph_of(model, 1, 3, 17, 8), ["softmax-by-norm"], images, NPU)
    assert "Softmax" in kinds(found.graph) and found.records == ()


class Biased(nn.Module):
    """Windows of an image's tokens, each with its own attention and a bias of its own on the scores."""

    def __init__(self, windows: int, tokens: int, heads: int) -> None:
        super().__init__()
        self.windows, self.tokens = windows, tokens
        bias = (
            torch.randn(windows, heads, tokens, tokens) if windows > 2 else torch.randn(heads, tokens, tokens)
        )
        self.attention = Attention("packed", 4 * heads, heads, bias)
        self.lift = nn.Conv2d(3, 4 * heads, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.lift(image).flatten(2).transpose(1, 2)
        x = x.reshape(self.windows, self.tokens, -1)
        return self.attention(x).reshape(1, -1)


@pytest.mark.parametrize(("windows", "tokens"), [(1, 16), (4, 8), (2, 6), (16, 3), (20, 5)])
def test_windows_and_biases_are_kept(windows: int, tokens: int) -> None:
    torch.manual_seed(0)
    model, images = Biased(windows, tokens, 2), noise(2, 3, windows, tokens)
    found = rewrite_graph(graph_of(model, 1, 3, windows, tokens), EVERY, images, NPU)
    assert "Softmax" not in kinds(found.graph)
    expected = np.concatenate([model(torch.from_numpy(image[None])).detach().numpy() for image in images])
    np.testing.assert_allclose(
        outputs_of(found.graph, images)[0].reshape(expected.shape), expected, rtol=1e-4, atol=1e-4
    )


class Doubled(nn.Module):
    """Something that only looks like attention: its scores are no product."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.layer(image.flatten(2))
        return (x.sigmoid().softmax(-1) @ x.transpose(1, 2)).flatten(1)


def test_what_is_no_attention_is_left_alone() -> None:
    graph = graph_of(Doubled(), 1, 3, 2, 3)
    found = rewrite_graph(graph, ["softmax-by-norm", "pad-tokens"], noise(1, 3, 2, 3), NPU)
    assert found.graph == graph and found.records == ()


def test_a_rewrite_that_would_change_the_outputs_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgevit.rewrites.graph import apply

    def broken(model: object, npu: object) -> dict[str, str]:
        for node in model.graph:  # type: ignore[attr-defined]
            if node.op_type == "Softmax":
                node.replace_input_with(0, node.inputs[0].producer().inputs[0])
        return {"token-rows": "broken"}

    monkeypatch.setattr(apply, "GRAPH_REWRITES", ((("token-rows",), broken),))
    graph = graph_of(Classifier("packed", patch=4, grid=2, dim=8, heads=1), 1, 3, 8, 8)
    found = apply.rewrite_graph(graph, ["token-rows"], noise(1, 3, 8, 8), NPU)
    assert found.graph == graph
    assert [record.changed for record in found.records] == [False]
    assert found.records[0].what.startswith("left out, it ")


def test_new_tensors_are_named_after_the_model_s_own() -> None:
    graph = graph_of(Classifier("chunks", patch=8, grid=3, dim=12, heads=3), 1, 3, 24, 24)
    found = rewrite_graph(graph, EVERY, noise(1, 3, 24, 24), NPU)
    names = [name for node in found.graph.graph.node for name in node.output]
    assert len(names) == len(set(names)) and not [name for name in names if name.startswith("val_")]
    assert any("blocks.0" in name and "_made" in name for name in names)
