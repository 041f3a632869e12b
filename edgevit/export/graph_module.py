"""An ONNX graph as a module, for converters that start from PyTorch."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnx import numpy_helper
from onnxscript.rewriter import pattern
from onnxscript.rewriter.ort_fusions import erfgelu
from torch import nn

from edgevit.export.graph_in_torch import Graph, keep
from edgevit.export.onnx_graph import export_graph, export_onnx
from edgevit.export.operands import Tensor
from edgevit.export.program import export_program


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


def program_by_graph(program: Path, out: Path) -> Path:
    """A saved program [1, height, width, channels] as that of its ONNX graph: the same function, spelt anew.

    Converters refuse a spelling and take another. Raises EdgevitError where there is no such graph.
    """
    saved = torch.export.load(program)
    height, width, channels = saved.example_inputs[0][0].shape[1:]
    module: Any = saved.module()
    module.train = lambda mode=True: module  # it has one mode; exporters set it
    with TemporaryDirectory(dir=out.parent, prefix=".graph-") as folder:
        path = export_onnx(ChannelsFirst(module), (height, width), channels, Path(folder) / "graph.onnx")
        return export_program(as_module(onnx.load(path)), (height, width), channels, out)


class ChannelsFirst(nn.Module):
    """Takes [batch, channels, height, width] for a module that takes channels last."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, image: Tensor) -> Any:
        """What the module gives."""
        return self.module(image.permute(0, 2, 3, 1))


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
