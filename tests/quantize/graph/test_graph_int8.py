"""Int8 of any graph: torch computes it as ONNX Runtime does, and what int8 destroys goes to 16 bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from edgevit.errors import EdgevitError
from edgevit.export.graph_in_torch import Graph, keep
from edgevit.metrics.acceptance import Acceptance
from edgevit.quantize.graph.find import find_plan, observe, prepare, rounding_effects
from edgevit.quantize.graph.groups import candidate_plans
from edgevit.quantize.graph.rounding import int8_outputs
from edgevit.quantize.graph.structure import ORDERS, structure_of
from edgevit.quantize.mixed_precision import Judging
from edgevit.rewrites.graph.apply import outputs_of
from edgevit.targets.profiles import Npu
from tests.rewrites.graph.graphs import SPELLINGS, Classifier, graph_of, noise

NPU = Npu(target="any", macs_per_cycle_int8=1024, macs_per_cycle_float=512, ddr_bytes_per_cycle=20.0)


def classifier(spelling: str = "chunks") -> Classifier:
    torch.manual_seed(0)
    return Classifier(spelling, patch=4, grid=3, dim=12, heads=3)


class Hybrid(nn.Module):
    """Convolutions, batch norm, pools, GELU, a gate, resized pads: what attention models don't have."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.SiLU())
        self.pool, self.deep = nn.AvgPool2d(3, 1, 1), nn.Conv2d(8, 8, 3, 1, 1, groups=8)
        self.gate, self.head = nn.Conv2d(8, 8, 1), nn.Linear(8, 4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.stem(image)
        x = x + nn.functional.gelu(self.deep(self.pool(x) - x)) * self.gate(x).sigmoid()
        x = nn.functional.max_pool2d(nn.functional.pad(x, (1, 1, 1, 1)), 2)
        return self.head(x.mean((2, 3)).clamp(-3, 3))


def computed_alike(graph: onnx.ModelProto, *shape: int) -> None:
    images = noise(3, *shape)
    found = Graph(graph).outputs(torch.from_numpy(images), keep).numpy()
    np.testing.assert_allclose(found, outputs_of(graph, images)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_torch_computes_what_onnx_runtime_does(spelling: str) -> None:
    computed_alike(graph_of(classifier(spelling), 1, 3, 12, 12), 3, 12, 12)


def test_so_it_does_for_convolutions_and_pools() -> None:
    computed_alike(graph_of(Hybrid(), 1, 3, 13, 12), 3, 13, 12)


def test_an_operation_that_is_not_known_is_one_line() -> None:
    graph = graph_of(classifier(), 1, 3, 12, 12)
    graph.graph.node[0].op_type = "NonMaxSuppression"
    with pytest.raises(EdgevitError) as error:
        Graph(graph)
    assert str(error.value) == (
        "cannot compute the graph step by step: NonMaxSuppression is not among the operations that edgevit knows. "
        "Report the model."
    )


def stored_of(graph: onnx.ModelProto) -> list[str]:
    """What a compiler would store: linear layers with their bias, sums, norms, activations, attention's parts."""
    nodes, constants = list(graph.graph.node), {each.name for each in graph.graph.initializer}
    found = [graph.graph.input[0].name]
    for node in nodes:
        readers = [each for each in nodes if node.output[0] in each.input]
        biased = node.op_type == "MatMul" and [each.op_type for each in readers] == ["Add"]
        if biased and constants & set(readers[0].input):
            continue
        if node.op_type not in (*ORDERS, "Split", "Slice", "Gather", "Concat", "Mul"):
            found.append(node.output[0])
    return found


def test_structure_is_recognised_from_the_graph() -> None:
    graph = graph_of(classifier(), 1, 3, 12, 12)
    structure = structure_of(graph, stored_of(graph))
    sums = [each for each in structure.operations.values() if each.adds]
    norms = [each for each in structure.operations.values() if each.norm]
    assert len(sums) == len(norms) == 2
    # proj's result is rounded once, after the residual sum
    assert {structure.into[name] for name in structure.into} >= {each.name for each in sums}
    assert len(structure.inside) == 4  # scores and weights of both attentions
    for layer in [layer for each in structure.operations.values() for layer in each.layers]:
        assert layer.rows in (1, 9, 10) and layer.outputs in (5, 12, 36)


def test_plans_go_from_everything_int8_to_everything_in_16_bits() -> None:
    graph = graph_of(classifier(), 1, 3, 12, 12)
    structure = structure_of(graph, stored_of(graph))
    effects = {name: float(number + 1) for number, name in enumerate(structure.operations)}
    plans = candidate_plans(structure, effects, NPU)
    image = graph.graph.input[0].name
    assert image in structure.operations and not any(image in plan.sixteen_bit for plan in plans)
    assert plans[0].sixteen_bit == ()
    assert set(plans[-1].sixteen_bit) >= set(structure.operations) - set(structure.inside) - {image}
    errors, costs = [each.estimated_kl for each in plans], [each.cycles for each in plans]
    assert errors == sorted(errors, reverse=True) and costs[0] == 0 and costs[-1] == max(costs)
    for before, after in zip(plans, plans[1:-1], strict=False):
        assert set(before.sixteen_bit) < set(after.sixteen_bit)


class Massive(nn.Module):
    """A classifier whose first token is lost in int8: the other tokens are a thousand times as large."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = classifier()
        self.norm = nn.LayerNorm(12)
        with torch.no_grad():
            self.inner.first.mul_(0.001)
            self.inner.positions.zero_()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.inner.patches(image).flatten(2).transpose(1, 2)
        x = (
            torch.cat([self.inner.first.expand(x.shape[0], -1, -1) + 0.001 * x.mean(1, keepdim=True), x], 1)
            * 3.0
        )
        return self.inner.head(self.inner.blocks(self.norm(x))[:, 0])


def prepared(model: nn.Module) -> tuple[Any, Any, torch.Tensor]:
    graph = graph_of(model, 1, 3, 12, 12)
    images = torch.from_numpy(noise(24, 3, 12, 12))
    observed = observe(graph, images)
    stored = [*stored_of(graph), *(node.output[0] for node in graph.graph.node if node.op_type == "Concat")]
    return observed, prepare(observed, stored, images, seed=0), images


def test_the_tensor_that_int8_destroys_is_named() -> None:
    observed, ready, _ = prepared(Massive())
    effects = rounding_effects(ready)
    worst = max(effects, key=lambda name: effects[name])
    maker = next(node for node in observed.proto.graph.node if node.output[0] == worst)
    assert maker.op_type in ("Concat", "Mul")


def test_a_search_keeps_predictions_by_few_16_bit_tensors() -> None:
    observed, ready, images = prepared(Massive())

    def simulate(plan: Any) -> Any:
        found = int8_outputs(observed.graph, ready.structure, images[-12:], plan.ranges, plan.sixteen_bit)
        return found.numpy()

    planned = find_plan(
        ready,
        observed,
        images,
        NPU,
        Judging(evaluated=12, simulate=simulate, acceptance=Acceptance(5.0), minutes=1),
    )
    assert planned.found.met
    assert 0 < len(planned.plan.sixteen_bit) < len(ready.structure.operations)
    assert planned.plan.lenient and set(planned.plan.sixteen_bit) <= set(planned.plan.ranges)


def test_a_plan_says_that_it_is_lenient(tmp_path: Any) -> None:
    from edgevit.quantize.plan import read_plan

    observed, _, _ = prepared(classifier())
    path = tmp_path / "plan.toml"
    path.write_text(observed.plan.to_toml(), encoding="utf-8")
    assert read_plan(path) == observed.plan
