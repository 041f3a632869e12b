"""Operations without an int8 kernel go back to the NPU in 16 bits, where the compiler and the cost agree."""

from __future__ import annotations

from dataclasses import replace

import onnx
import pytest
import torch
from torch import nn

from edgevit.placement.layers import Layer, Placement
from edgevit.quantize.graph.on_npu import kept_on_npu, made_by
from edgevit.quantize.plan import PrecisionPlan
from tests.rewrites.graph.graphs import graph_of


class Divided(nn.Module):
    """Two divisions of what a convolution gives, one of them moved afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 2, 2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.layer(image)
        first = x / (x.abs().mean(1, keepdim=True) + 1)
        second = (x * x) / (x.square().sum(1, keepdim=True) + 1)
        return first.mean((2, 3)) + second.flatten(2).transpose(1, 2).mean(1)


def graph() -> onnx.ModelProto:
    return graph_of(Divided(), 1, 3, 8, 8)


def divisions() -> dict[str, str]:
    """Names of the divisions' nodes, and of what they make."""
    return {node.name: node.output[0] for node in graph().graph.node if node.op_type == "Div"}


def layer(index: int, name: str, target: str) -> Layer:
    return Layer(
        index=index,
        op=name.partition(":")[0],
        dtype="INT8",
        target=target,
        inputs=(),
        inputs_complete=True,
        outputs=(),
        cycles_ddr=0,
        cycles_npu=1,
        cycles_total=1,
        traffic_kb=1,
        name=name,
    )


def compiler(needs: dict[str, str]) -> object:
    """A compiler that leaves each named node to the CPU unless a tensor has 16 bits."""

    def placed(plan: PrecisionPlan) -> Placement:
        rows = (
            layer(number, f"Div:{node}", "NPU" if tensor in plan.sixteen_bit else "CPU")
            for number, (node, tensor) in enumerate(needs.items())
        )
        return Placement(tuple(rows), 0, 0)

    return placed


PLAN = PrecisionPlan("int8", sixteen_bit=("kept",))


def layers_left(placement: Placement) -> tuple[float, ...]:
    return (float(len(placement.cpu_layers)),)


def test_what_has_a_kernel_in_16_bits_gets_them() -> None:
    found = kept_on_npu(PLAN, graph(), set(divisions().values()), compiler(divisions()), layers_left)
    assert found == replace(PLAN, sixteen_bit=("kept", *sorted(divisions().values())))


def test_only_what_helps_gets_them() -> None:
    (first, made), (second, _) = divisions().items()
    never = compiler({first: made, second: "nothing"})
    found = kept_on_npu(PLAN, graph(), set(divisions().values()), never, layers_left)
    assert found.sixteen_bit == ("kept", made)


@pytest.mark.parametrize("why", ["nothing on the CPU", "not stored", "dearer"])
def test_a_plan_stays_where_nothing_is_gained(why: str) -> None:
    placed = compiler({} if why == "nothing on the CPU" else divisions())
    stored = set() if why == "not stored" else set(divisions().values())
    cost = (lambda p: (-layers_left(p)[0],)) if why == "dearer" else layers_left
    assert kept_on_npu(PLAN, graph(), stored, placed, cost) is PLAN


def test_layers_are_traced_to_the_tensors_that_they_move() -> None:
    (first, made), (_, other) = divisions().items()
    layers = [f"Div:{first}#2", f"Transpose:{other}_tp_rs#1", "Reshape:/unheard/of"]
    assert made_by(graph(), layers) == [made, other]
