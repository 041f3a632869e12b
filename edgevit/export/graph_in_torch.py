"""An ONNX graph computed by torch, so that its tensors can be watched, rounded and differentiated.

ONNX Runtime is quicker but shows no gradients, and would need a graph of its own for every way of rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnx import helper, numpy_helper
from onnxscript.rewriter import pattern
from onnxscript.rewriter.ort_fusions import erfgelu
from torch import nn

from edgevit.errors import EdgevitError
from edgevit.export.onnx_graph import export_graph
from edgevit.export.operands import Tensor
from edgevit.export.operations import OPERATIONS

# Called with a tensor's name and its value, gives what its readers see.
Tap = Callable[[str, Tensor], Tensor]
BATCH = 8


class Graph:
    """A graph [1, channels, height, width] -> its outputs that torch can run; `weights` are its float constants.

    Raises EdgevitError for an operation that isn't known.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.nodes = [
            (node, {each.name: helper.get_attribute_value(each) for each in node.attribute})
            for node in model.graph.node
        ]
        self.input = model.graph.input[0].name
        self.outputs_named = [each.name for each in model.graph.output]
        arrays = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
        self.weights = {
            name: torch.from_numpy(np.array(each))
            for name, each in arrays.items()
            if each.dtype == np.float32
        }
        self.numbers = {name: each for name, each in arrays.items() if name not in self.weights}
        unknown = sorted({node.op_type for node, _ in self.nodes} - set(OPERATIONS))
        if unknown:
            raise EdgevitError(
                "cannot compute the graph step by step",
                f"{unknown[0]} is not among the operations that edgevit knows",
                "Report the model",
            )

    def run(self, image: Tensor, tap: Tap, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """All outputs [values] for one image [channels, height, width]; `weights` replace the graph's own."""
        found = self.values(image.unsqueeze(0), tap, weights)
        return torch.cat([each.reshape(-1) for each in found])

    def values(self, images: Tensor, tap: Tap, weights: Mapping[str, Tensor] | None = None) -> list[Tensor]:
        """Each output for what the graph takes, [1, channels, height, width]."""
        values: dict[str, Any] = {**self.numbers, **self.weights, **(weights or {})}
        values[self.input] = tap(self.input, images)
        for node, attributes in self.nodes:
            given = [values[name] if name else None for name in node.input]
            found = OPERATIONS[node.op_type](given, attributes)
            for name, value in zip(
                node.output, found if isinstance(found, tuple) else (found,), strict=False
            ):
                values[name] = (
                    tap(name, value) if isinstance(value, Tensor) and value.is_floating_point() else value
                )
        return [values[name] for name in self.outputs_named]

    def outputs(self, images: Tensor, tap: Tap, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """Outputs [n, values] for images [n, channels, height, width]; the tap sees batches of each tensor."""
        with torch.inference_mode():
            parts = [self.batch(part, tap, weights) for part in torch.split(images, BATCH)]
        return torch.cat(parts)

    def batch(self, images: Tensor, tap: Tap, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """Outputs [n, values] of one batch."""
        every: Tensor = torch.func.vmap(lambda image: self.run(image, tap, weights))(images)
        return every


class GraphModule(nn.Module):
    """A graph as a module [1, channels, height, width] -> its outputs, for converters that start from PyTorch.

    Its linear layers are torch's, which converters know, and not products with a constant. Raises EdgevitError
    for an operation that isn't known.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__()
        self.graph = Graph(with_linear_layers(model))
        for number, weight in enumerate(self.graph.weights.values()):
            self.register_buffer(f"weight_{number}", weight)

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The graph's outputs."""
        weights = {name: self.get_buffer(f"weight_{n}") for n, name in enumerate(self.graph.weights)}
        found = self.graph.values(image, keep, weights)
        return found[0] if len(found) == 1 else tuple(found)


def as_module(graph: onnx.ModelProto) -> GraphModule:
    """Any producer's graph as a module, simplified as the exported ones are. Raises EdgevitError."""
    with TemporaryDirectory() as folder:
        model = ir.load(export_graph(graph, Path(folder) / "graph.onnx"))
        pattern.RewriteRuleSet([erfgelu.rule1, erfgelu.rule2], commute=True).apply_to_model(model)
        return GraphModule(ir.to_proto(model))


def with_linear_layers(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose products with a constant matrix [inputs, outputs] are `Linear` nodes of [outputs, inputs]."""
    found = onnx.ModelProto()
    found.CopyFrom(model)
    kept = {each.name: each for each in found.graph.initializer}
    for node in found.graph.node:
        weight = kept.get(node.input[1]) if node.op_type == "MatMul" else None
        if weight is None or len(weight.dims) != 2:
            continue
        turned = numpy_helper.from_array(
            np.ascontiguousarray(numpy_helper.to_array(weight).T), f"{weight.name}_turned"
        )
        if turned.name not in kept:
            found.graph.initializer.append(turned)
            kept[turned.name] = turned
        node.op_type, node.input[1] = "Linear", turned.name
    read = {name for node in found.graph.node for name in node.input}
    unread = [each for each in found.graph.initializer if each.name not in read]
    for each in unread:
        found.graph.initializer.remove(each)
    return found


def keep(_: str, value: Tensor) -> Tensor:
    """The tap that changes nothing."""
    return value
