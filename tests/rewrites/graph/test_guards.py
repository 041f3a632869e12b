"""Attention loses its guard against rows that are masked altogether only where nothing masks."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

from edgevit.rewrites.graph.apply import outputs_of
from edgevit.rewrites.graph.guards import drop_guards
from edgevit.rewrites.graph.values import opened
from tests.rewrites.graph.graphs import graph_of, kinds, noise


class Guarded(nn.Module):
    """x [n, tokens, width] attends to itself, as torch spells fused attention out; `mask` is added or chosen."""

    def __init__(self, mask: torch.Tensor | None) -> None:
        super().__init__()
        self.mask = mask

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = (x * 0.5) @ (x * 0.5).transpose(1, 2)
        if self.mask is not None and self.mask.dtype == torch.bool:
            scores = torch.where(self.mask, scores, -torch.inf)
        elif self.mask is not None:
            scores = scores + self.mask
        weights = scores.softmax(-1)
        return torch.where(torch.isnan(weights), torch.zeros(()), weights) @ x


@pytest.mark.parametrize("bias", [None, torch.rand(6, 6) * 10])
def test_a_guard_that_nothing_needs_goes(bias: torch.Tensor | None) -> None:
    graph = graph_of(Guarded(bias), 1, 6, 4)
    assert "IsNaN" in kinds(graph)
    model = opened(graph)
    assert drop_guards(model) == 1
    found = ir.to_proto(model)
    assert not {"IsNaN", "Where"} & set(kinds(found))
    for ours, right in zip(outputs_of(found, noise(3, 6, 4)), outputs_of(graph, noise(3, 6, 4)), strict=True):
        np.testing.assert_array_equal(ours, right)


@pytest.mark.parametrize("mask", [torch.full((6, 6), -torch.inf), torch.zeros(6, 6, dtype=torch.bool)])
def test_a_guard_that_a_mask_needs_stays(mask: torch.Tensor) -> None:
    graph = graph_of(Guarded(mask), 1, 6, 4)
    model = opened(graph)
    assert drop_guards(model) == 0
    assert not np.isnan(outputs_of(ir.to_proto(model), noise(1, 6, 4))[0]).any()
