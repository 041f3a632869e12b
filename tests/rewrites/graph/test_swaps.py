"""Places of maps and tokens are reordered by cuts and joins, and nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgevit.rewrites.graph.apply import outputs_of, rewrite_graph
from edgevit.targets.profiles import Npu
from tests.rewrites.graph.graphs import graph_of, kinds, noise

NPU = Npu(target="any")
ORDERS = {
    "windows of a map": lambda x, n, h, w: x.reshape(1, n, *h, *w).permute(2, 4, 3, 5, 1, 0).reshape(-1, n),
    "a map of windows": lambda x, n, h, w: x.reshape(n, *h, *w).permute(0, 1, 3, 2, 4).reshape(1, n, -1),
    "places of each patch": lambda x, n, h, w: x.reshape(n, *h, *w).permute(2, 4, 1, 3, 0).reshape(1, -1, n),
    "patches as channels": lambda x, n, h, w: (
        x.reshape(1, n, *h, *w).permute(0, 2, 4, 5, 3, 1).reshape(1, h[0] * w[0], -1)
    ),
    "tokens to places": lambda x, n, h, w: (
        x.flatten(2)
        .transpose(1, 2)
        .reshape(1, *h, *w, n)
        .permute(0, 5, 1, 3, 2, 4)
        .reshape(1, n, h[0] * w[0], h[1] * w[1])
    ),
}


class Reordered(nn.Module):
    """A map of `channels`, its rows and columns cut in two, in another order."""

    def __init__(self, order: str, channels: int, rows: tuple[int, int], columns: tuple[int, int]) -> None:
        super().__init__()
        self.order, self.sizes = order, (channels, rows, columns)
        self.lift = nn.Conv2d(3, channels, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        moved: torch.Tensor = ORDERS[self.order](self.lift(image), *self.sizes)
        return moved.sigmoid().reshape(1, -1)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    order=st.sampled_from(list(ORDERS)),
    channels=st.integers(2, 6),
    rows=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    columns=st.tuples(st.integers(1, 4), st.integers(1, 4)),
)
def test_any_reordering_is_kept(
    order: str, channels: int, rows: tuple[int, int], columns: tuple[int, int]
) -> None:
    model = Reordered(order, channels, rows, columns)
    shape = (3, rows[0] * rows[1], columns[0] * columns[1])
    graph, images = graph_of(model, 1, *shape), noise(2, *shape)
    found = rewrite_graph(graph, ["split-moves"], images, NPU)
    assert all(record.changed for record in found.records)
    expected = np.concatenate([model(torch.from_numpy(image[None])).detach().numpy() for image in images])
    np.testing.assert_allclose(outputs_of(found.graph, images)[0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("order", list(ORDERS))
def test_no_transpose_of_more_than_two_axes_is_left(order: str) -> None:
    graph = graph_of(Reordered(order, 5, (2, 3), (4, 2)), 1, 3, 6, 8)
    found = rewrite_graph(graph, ["split-moves"], noise(1, 3, 6, 8), NPU)
    assert [record.what for record in found.records] == ["1 reordering of places as cuts and joins"]
    assert {"Split", "Concat"} <= set(kinds(found.graph))
    perms = [list(node.attribute[0].ints) for node in found.graph.graph.node if node.op_type == "Transpose"]
    assert all(perm == [0, 2, 1] for perm in perms)


def test_a_reordering_of_too_many_parts_stays_a_transpose() -> None:
    graph = graph_of(Reordered("places of each patch", 2, (33, 34), (1, 1)), 1, 3, 1122, 1)
    assert rewrite_graph(graph, ["split-moves"], noise(1, 3, 1122, 1), NPU).records == ()
