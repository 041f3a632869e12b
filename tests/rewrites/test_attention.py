"""Softmax from max-pool, ELU and L1 norm is softmax."""

from __future__ import annotations

import pytest
import torch

from edgevit.rewrites.attention import softmax_without_kernel
from edgevit.rewrites.modules import softmax, softmax_by_norm
from tests.vits import images, random_vit


@pytest.mark.parametrize("size", [0.0, 1.0, 30.0, 1000.0])
def test_softmax_by_norm_is_softmax_at_any_scale_of_scores(size: float) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, 9, 4, generator=generator) for _ in range(3))
    expected = softmax(size * q, k, v, None)
    torch.testing.assert_close(softmax_by_norm(size * q, k, v, None), expected, rtol=1e-5, atol=2e-6)


def test_softmax_by_norm_leaves_uncounted_keys_out() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, 6, 4, generator=generator) for _ in range(3))
    k[:, :, -1] = k[:, :, 0]  # as padding does: a copy never exceeds the maximum of the rest
    counted = torch.tensor([1.0, 1, 1, 1, 1, 0])
    expected = softmax(q, k[:, :, :-1], v[:, :, :-1], None)
    torch.testing.assert_close(softmax_by_norm(q, k, v, counted), expected, rtol=1e-5, atol=2e-6)


def test_the_rewritten_model_has_neither_softmax_nor_exponential() -> None:
    model = softmax_without_kernel(random_vit()).module
    graph = torch.export.export(model, (images(model, 1),)).graph
    names = {str(node.target) for node in graph.nodes}
    assert "aten.elu.default" in names
    assert not [name for name in names if "softmax" in name or "exp." in name or "attention" in name]
