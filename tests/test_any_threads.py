"""What is computed is the same, to the last bit, on one thread and on two."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgevit.any_threads import softmax, total
from edgevit.backends.rknn.backend import FUSION
from edgevit.quantize.prepare import prepare_int8
from tests.quantize.graph.test_graph_conditioning import condition
from tests.rewrites.graph.graphs import graph_of, noise
from tests.rewrites.graph.test_streams import PreNorm
from tests.vits import images, random_vit


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def on_one_and_two(compute: Callable[[], Any]) -> tuple[Any, Any]:
    torch.set_num_threads(1)
    one = compute()
    torch.set_num_threads(2)
    return one, compute()


@settings(max_examples=30, deadline=None)
@given(st.tuples(*[st.integers(1, most) for most in (4, 12, 200, 200)]), st.integers(0, 2**32 - 1))
def test_the_gradient_of_softmax(shape: tuple[int, ...], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores, above = (torch.randn(shape, generator=generator) for _ in range(2))

    def gradient(function: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        given = scores.clone().requires_grad_(True)
        function(given).backward(above)  # type: ignore[no-untyped-call]
        assert given.grad is not None
        return given.grad

    one, two = on_one_and_two(lambda: gradient(softmax))
    assert torch.equal(one, two)
    torch.testing.assert_close(one, gradient(lambda given: given.softmax(-1)), atol=1e-5, rtol=1e-4)


def test_softmax_without_gradients_is_torchs() -> None:
    scores = torch.randn(3, 5, 7)
    with torch.no_grad():
        assert torch.equal(softmax(scores, 1), scores.softmax(1))


def test_a_full_sum() -> None:
    values = torch.randn(300_001)
    one, two = on_one_and_two(lambda: total(values))
    assert one == two == pytest.approx(float(values.double().sum()))


def test_a_model_conditioned_for_int8() -> None:
    model = random_vit(seed=3, embed_dim=48, patch_size=8)
    inputs = images(model, 16)
    one, two = on_one_and_two(lambda: prepare_int8(model, inputs, FUSION, seed=0))
    assert one.plan == two.plan and one.steps == two.steps
    weights = zip(one.module.parameters(), two.module.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in weights)


@pytest.mark.slow
def test_a_graph_conditioned_for_int8() -> None:
    torch.manual_seed(0)
    model = PreNorm(48, 3, 1, "first", token=True, before=False, scaled=False, bias=True, windows=False)
    graph, inputs = graph_of(model.eval(), 1, 3, 6, 6), torch.from_numpy(noise(32, 3, 6, 6))
    one, two = on_one_and_two(lambda: condition(graph, inputs))
    assert one.graph.SerializeToString() == two.graph.SerializeToString()
