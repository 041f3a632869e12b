"""Tensors in 16 bits because their operation has a kernel on the NPU in 16 bits and none in int8.

Rockchip's compilers leave a division, a root and some moves to the CPU in int8 that they run on the NPU in float16:
convolutional transformers that normalise by themselves (ConViT, ConvNeXt V2, EfficientViT) cross over each time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import onnx

from edgevit.placement.layers import Placement
from edgevit.quantize.graph.structure import computed
from edgevit.quantize.plan import PrecisionPlan

# What an estimate can't tell: a layer on the CPU costs what else the CPU is doing.
ROOM = 0.02
LAYER = re.compile(r"^[^:]*:(.*?)(#\d+)?$")  # kind:node, and which part of it
MADE = re.compile(r"_[a-z0-9]+$")  # what a compiler appends to the name of a tensor that it moves


def kept_on_npu(
    plan: PrecisionPlan,
    proto: onnx.ModelProto,
    stored: Collection[str],
    placed: Callable[[PrecisionPlan], Placement],
    cost: Callable[[Placement], tuple[float, ...]],
) -> PrecisionPlan:
    """The plan with 16 bits where that brings operations back to the NPU and costs no more; else the plan itself.

    `placed` compiles a plan and tells where each layer runs, `stored` are the tensors that the compiler stores.
    """
    before = placed(plan)
    tensors = set(made_by(proto, off_npu(before))) & set(stored) - set(plan.sixteen_bit)
    if not tensors:
        return plan
    wider = with_more(plan, tensors)
    # A tensor whose operation stays on the CPU all the same keeps its 8 bits.
    helped = tensors - set(made_by(proto, off_npu(placed(wider))))
    if not helped:
        return plan
    found = with_more(plan, helped)
    return found if cost(placed(found))[0] <= (1 + ROOM) * cost(before)[0] else plan


def off_npu(placement: Placement) -> list[str]:
    """The layers that a compiler leaves to the CPU."""
    return [layer.name for layer in placement.cpu_layers]


def with_more(plan: PrecisionPlan, tensors: Collection[str]) -> PrecisionPlan:
    """The plan with more tensors in 16 bits."""
    return replace(plan, sixteen_bit=(*plan.sixteen_bit, *sorted(tensors)))


def made_by(proto: onnx.ModelProto, layers: Sequence[str]) -> list[str]:
    """The tensors, as plans name them, that layers make; those named in no known way are left out."""
    same = computed(proto)
    outputs = {node.name: node.output[0] for node in proto.graph.node}
    found = []
    for layer in layers:
        match = LAYER.match(layer)
        name = match[1] if match else layer
        while name not in outputs and name not in same and MADE.search(name):
            name = MADE.sub("", name)
        tensor = outputs.get(name, name)
        if tensor in same:
            found.append(same[tensor])
    return found
