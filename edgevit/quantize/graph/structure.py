"""Which operation makes each tensor that a compiler stores, and what it fuses: from the graph alone."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

import onnx
from onnx import shape_inference

# Every element once, in another order: the same tensor to whoever rounds it.
ORDERS = frozenset({"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity"})
LINEAR = frozenset({"MatMul", "Gemm", "Conv", "ConvTranspose"})
NORMS = frozenset({"LayerNormalization", "InstanceNormalization", "BatchNormalization"})
# Between a linear layer and what a compiler computes in the same pass as it.
ELEMENTWISE = frozenset(
    {
        *("Add", "Sub", "Mul", "Div", "Erf", "Tanh", "Sigmoid", "Relu", "Clip", "HardSwish", "HardSigmoid"),
        *("LeakyRelu", "Elu", "Gelu", "Softplus", "Mish"),
    }
)


@dataclass(frozen=True)
class Layer:
    """A linear layer: its weight, the axis of that with a row for each output, what it multiplies for one image.

    A kernel's cells count as inputs.
    """

    weight: str
    axis: int
    rows: int
    inputs: int
    outputs: int


@dataclass(frozen=True)
class Operation:
    """What makes a stored tensor out of others: its nodes' kinds, and its multiply-accumulates' shape.

    `elements` are how many values the tensor has.
    """

    name: str
    inputs: tuple[str, ...]
    kinds: frozenset[str]
    layers: tuple[Layer, ...]
    elements: int

    @property
    def linear(self) -> bool:
        """Whether weights are multiplied in it."""
        return bool(self.layers)

    @property
    def norm(self) -> bool:
        """Whether it normalises and does nothing else."""
        return bool(self.kinds & NORMS) and not self.linear

    @property
    def adds(self) -> bool:
        """Whether it joins two tensors value by value."""
        return "Add" in self.kinds and len(self.inputs) > 1 and not self.linear


@dataclass(frozen=True)
class Structure:
    """Stored tensors in the order in which they are made, and who reads them."""

    operations: dict[str, Operation]
    readers: dict[str, tuple[str, ...]] = field(default_factory=dict)
    # A linear layer's result -> the operation that a compiler computes in the same pass.
    into: dict[str, str] = field(default_factory=dict)
    # Scores and weights -> the attention they are inside of.
    inside: dict[str, str] = field(default_factory=dict)

    def rounded_when_made(self, name: str, sixteen_bit: Collection[str]) -> bool:
        """Whether the operation that makes a tensor stores it as int8."""
        if name in sixteen_bit or self.inside.get(name) in sixteen_bit:
            return False
        return name not in self.into or self.into[name] in sixteen_bit


def computed(model: onnx.ModelProto) -> dict[str, str]:
    """Every computed tensor of a graph, and the one it is another order of (itself where it is none)."""
    constants = {each.name for each in model.graph.initializer}
    same = {model.graph.input[0].name: model.graph.input[0].name}
    for node in model.graph.node:
        source = same.get(node.input[0]) if node.input and node.op_type in ORDERS else None
        if node.op_type == "Constant" or (
            node.input and all(each in constants for each in node.input if each)
        ):
            constants |= set(node.output)
            continue
        for output in node.output:
            same[output] = source or output
    return same


def leaving(model: onnx.ModelProto, stored: Collection[str]) -> tuple[str, ...]:
    """The `stored` tensors that a graph's outputs are, or are made of by what stores nothing."""
    same = computed(model)
    makers = {output: node for node in model.graph.node for output in node.output}
    queue, found = [each.name for each in model.graph.output], dict[str, None]()
    seen = set(queue)
    while queue:
        name = queue.pop()
        if same.get(name) in stored:
            found[same[name]] = None
            continue
        node = makers.get(name)
        for each in node.input if node is not None else ():
            if each in same and each not in seen:
                seen.add(each)
                queue.append(each)
    return tuple(found)


def structure_of(model: onnx.ModelProto, stored: Collection[str]) -> Structure:
    """The structure among `stored` tensors, names as `computed` gives them."""
    model = shape_inference.infer_shapes(model)
    same, sizes = computed(model), shapes(model)
    makers = {output: node for node in model.graph.node for output in node.output}
    operations: dict[str, Operation] = {}
    for name in (each for each in same if each == same[each] and each in stored):
        nodes = list(between(name, same, makers, stored)) if name in makers else []
        inputs = {same[each] for node in nodes for each in node.input if same.get(each) in stored}
        layers = [layer for node in nodes if (layer := layer_of(node, same, sizes)) is not None]
        operations[name] = Operation(
            name=name,
            inputs=tuple(each for each in dict.fromkeys(same.values()) if each in inputs and each != name),
            kinds=frozenset(node.op_type for node in nodes),
            layers=tuple(layers),
            elements=math.prod(sizes.get(name, (1,))),
        )
    readers: dict[str, list[str]] = {name: [] for name in operations}
    for operation in operations.values():
        for each in operation.inputs:
            readers[each].append(operation.name)
    found = Structure(operations, {name: tuple(names) for name, names in readers.items()})
    for name, operation in operations.items():
        fused = found.readers[name]
        reader = operations[fused[0]] if len(fused) == 1 else None
        if reader is None:
            continue
        if operation.linear and reader.kinds - ORDERS <= ELEMENTWISE and reader.kinds:
            found.into[name] = reader.name
        elif "Softmax" in operation.kinds and "MatMul" in reader.kinds and not reader.linear:
            found.inside[name] = reader.name
    for name, operation in operations.items():
        if (
            len(found.readers[name]) == 1
            and found.readers[name][0] in found.inside
            and "MatMul" in operation.kinds
        ):
            found.inside[name] = found.inside[found.readers[name][0]]
    return found


def between(
    name: str, same: dict[str, str], makers: dict[str, onnx.NodeProto], stored: Collection[str]
) -> Iterator[onnx.NodeProto]:
    """The nodes that make a tensor out of stored ones."""
    queue, seen = [name], {name}
    while queue:
        node = makers.get(queue.pop())
        if node is None:
            continue
        yield node
        for each in node.input:
            if each in same and same[each] not in stored and each not in seen:
                seen.add(each)
                queue.append(each)


def layer_of(node: onnx.NodeProto, same: dict[str, str], sizes: dict[str, tuple[int, ...]]) -> Layer | None:
    """The linear layer that a node is; None for another node, or a product of two computed tensors."""
    if node.op_type not in LINEAR or node.input[1] in same or node.input[1] not in sizes:
        return None
    weight, elements = sizes[node.input[1]], math.prod(sizes.get(node.output[0], (1,)))
    turned = node.op_type == "Gemm" and any(each.name == "transB" and each.i for each in node.attribute)
    axis = (
        0 if node.op_type == "Conv" or turned else 1 if node.op_type == "ConvTranspose" else len(weight) - 1
    )
    outputs = weight[axis]
    return Layer(
        weight=node.input[1],
        axis=axis,
        rows=max(1, elements // max(1, outputs)),
        inputs=math.prod(weight) // max(1, outputs),
        outputs=outputs,
    )


def shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Every shape that is known."""
    graph = model.graph
    found = {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in [*graph.value_info, *graph.input, *graph.output]
    }
    return found | {each.name: tuple(each.dims) for each in graph.initializer}
