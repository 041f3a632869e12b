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


def test_a_graph_without_such_a_stream_stays_as_it_is() -> None:
    torch.manual_seed(0)
    graph = graph_of(Classifier("packed", patch=3, grid=2, dim=12, heads=3).eval(), 1, 3, SIDE, SIDE)
    found = condition(graph, torch.from_numpy(noise(16, 3, SIDE, SIDE)), seed=0)
    assert found.steps == ()
    assert found.graph is graph
