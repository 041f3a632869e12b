"""Activations over tokens are laid out as pixels where that is how a compiler fuses them; outputs stay."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from edgevit.rewrites.graph.apply import outputs_of, rewrite_graph
from tests.rewrites.graph.graphs import graph_of, kinds, noise

NAME = "fuse-activations"


class Mlp(nn.Module):
    """Tokens of an image through two layers, with an activation of a map, of its tokens or of a layer."""

    def __init__(self, width: int, activation: nn.Module, *, of: str = "layer") -> None:
        super().__init__()
        self.into, self.out = nn.Linear(3, width), nn.Linear(width, 2)
        self.activation, self.of = activation, of

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        if self.of == "map":
            image = self.activation(image)
        x = image.flatten(2).transpose(1, 2)
        x = self.into(self.activation(x) if self.of == "input" else x)
        return self.out(self.activation(x) if self.of == "layer" else x)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (4, 3), (7, 2)])
def test_a_hard_swish_of_tokens_is_one_of_pixels(width: int, height: int) -> None:
    torch.manual_seed(0)
    graph, images = graph_of(Mlp(width, nn.Hardswish()), 1, 3, height, 2), noise(3, 3, height, 2)
    found = rewrite_graph(graph, [NAME], images, None)
    (record,) = found.records
    assert (record.name, record.changed) == (NAME, True)
    assert record.what == "1 HardSwish laid out so that the layer before takes it in"
    np.testing.assert_allclose(outputs_of(found.graph, images)[0], outputs_of(graph, images)[0], atol=1e-6)
    assert kinds(found.graph).count("HardSwish") == 1
    assert rewrite_graph(found.graph, [NAME], images, None).records == ()


@pytest.mark.parametrize(
    "module", [Mlp(4, nn.GELU()), Mlp(4, nn.Hardswish(), of="map"), Mlp(4, nn.Hardswish(), of="input")]
)
def test_other_activations_and_what_no_layer_makes_stay(module: nn.Module) -> None:
    assert rewrite_graph(graph_of(module, 1, 3, 2, 2), [NAME], noise(1, 3, 2, 2), None).records == ()
