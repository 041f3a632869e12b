"""A graph with massive activations in its residual stream fits int8 once the stream is rotated."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgevit.quantize.graph.conditioning import condition
from edgevit.rewrites.graph.apply import outputs_of
from tests.rewrites.graph.graphs import Classifier, graph_of, noise
from tests.rewrites.graph.test_streams import PreNorm

SIDE = 6


def model(*, massive: bool) -> PreNorm:
    """A pre-norm classifier; `massive`: one channel of the stream is hundreds of times the others."""
    torch.manual_seed(0)
    made = PreNorm(24, 3, 3, "first", token=True, before=False, scaled=False, bias=True, windows=False).eval()
    if massive:
        with torch.no_grad():
            made.positions[0, 1, 5] += 400
    return made


@pytest.mark.slow
def test_massive_activations_are_spread_and_the_function_stays() -> None:
    graph = graph_of(model(massive=True), 1, 3, SIDE, SIDE)
    images = noise(32, 3, SIDE, SIDE)
    found = condition(graph, torch.from_numpy(images), seed=0)
    kept = {step.name: step for step in found.steps if step.kept}
    assert kept["rotation"].after.kl < 0.3 * kept["rotation"].before.kl
    ours, theirs = outputs_of(found.graph, images[:4])[0], outputs_of(graph, images[:4])[0]
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)
    again = condition(graph, torch.from_numpy(images), seed=0)
    assert again.graph.SerializeToString() == found.graph.SerializeToString()


def test_the_only_norm_may_give_the_output() -> None:
    class One(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches, self.norm = torch.nn.Conv2d(3, 24, 2, 2), torch.nn.LayerNorm(24)
            self.into = torch.nn.ModuleList(torch.nn.Linear(24, 600) for _ in range(2))
            self.out = torch.nn.Linear(600, 24)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            x = self.patches(image).flatten(2).transpose(1, 2)
            for layer in self.into:
                x = x + self.out(layer(x).relu())
            return self.norm(x)

    torch.manual_seed(0)
    made = One().eval()
    with torch.no_grad():
        made.patches.bias[3] += 300  # type: ignore[operator]
    graph, images = graph_of(made, 1, 3, SIDE, SIDE), noise(16, 3, SIDE, SIDE)
    found = condition(graph, torch.from_numpy(images), seed=0)
    assert [step.name for step in found.steps] == ["rotation"]
    ours, theirs = outputs_of(found.graph, images[:2])[0], outputs_of(graph, images[:2])[0]
    np.testing.assert_allclose(ours, theirs, rtol=1e-2, atol=1e-2)


def test_a_graph_without_such_a_stream_stays_as_it_is() -> None:
    torch.manual_seed(0)
    graph = graph_of(Classifier("packed", patch=3, grid=2, dim=12, heads=3).eval(), 1, 3, SIDE, SIDE)
    found = condition(graph, torch.from_numpy(noise(16, 3, SIDE, SIDE)), seed=0)
    assert found.steps == ()
    assert found.graph is graph
