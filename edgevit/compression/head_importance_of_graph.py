"""What each attention head of any model is worth: heads are found in its graph, in whatever spelling."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import torch

from edgevit.compression.calibration_split import split_images
from edgevit.compression.compensation import Moments, solve
from edgevit.compression.head_importance import WHOLE, HeadPrice, Importance, Share
from edgevit.errors import InputError
from edgevit.export.graph_in_torch import Graph, keep
from edgevit.export.operands import Tensor
from edgevit.outputs.output import CLASS_SCORES, Outputs
from edgevit.progress import QUIET, Progress
from edgevit.rewrites.graph.attention_layers import Attention, attentions_of
from edgevit.rewrites.graph.values import constant, opened

# The model runs whole for every price.
FITTED, CHECKED = 96, 32


@dataclass(frozen=True)
class Projection:
    """The layer that is all that reads an attention: its names in the graph, and which head each input is of.

    `weight` [outputs, inputs] is the constant called `kernel`, which may have its `inputs_first`; `axis` is where
    `x` has its channels.
    """

    name: str
    x: str
    axis: int
    output: str
    kernel: str
    inputs_first: bool
    weight: Tensor
    head_of: Tensor
    count: int


def head_importance_of_graph(
    proto: onnx.ModelProto,
    inputs: Tensor,
    *,
    share: Share = WHOLE,
    seed: int = 0,
    outputs: Outputs = CLASS_SCORES,
    progress: Progress = QUIET,
) -> Importance:
    """Price every head that alone feeds its inputs of a layer, on calibration images [n, channels, height, width].

    The layer is refitted as `compensation` does, no other. Of a `share` only its heads. Raises InputError where
    there is no such head.
    """
    graph = Graph(proto)
    found = [each for one in attentions_of(opened(proto).graph) if (each := projection_of(one, graph))]
    if not found:
        raise InputError(
            "cannot price the attention heads",
            "no attention in the model's graph is read by a linear layer alone",
            "Give a transformer whose attention has several heads",
        )
    split = split_images(inputs, seed=seed)
    fit, check = split.fit[:FITTED], split.check[:CHECKED]
    moments = [measured(graph, found, images, progress) for images in (fit, check)]
    expected, prices = graph.outputs(check, keep), list[HeadPrice]()
    own = share.of([(block, head) for block, layer in enumerate(found) for head in range(layer.count)])
    for block, head in own:
        layer = found[block]
        of_head = layer.head_of == head
        removed, kept = (torch.nonzero(chosen)[:, 0] for chosen in (of_head, ~of_head))
        dropped = layer.weight.clone()
        dropped[:, removed] = 0
        on_fit, on_check = (
            each[layer.output].centred().without(removed, kept, layer.weight) for each in moments
        )
        correction, refitted = solve(on_fit, on_check), dropped.clone()
        refitted[:, kept] += correction.weight.float()
        losses = [
            outputs.difference(changed(graph, layer, check, weight, bias), expected).kl
            for weight, bias in ((refitted, correction.bias.float()), (dropped, None))
        ]
        prices.append(HeadPrice(block, head, *losses))
        progress.advance(len(prices), len(own), f"{layer.name} head {head}")
    names = tuple(each.name for each in found)
    return Importance(tuple(prices), tuple(each.count for each in found), len(check), names)


def projection_of(attention: Attention, graph: Graph) -> Projection | None:
    """The layer behind an attention of several heads; None where it can't be refitted token by token."""
    read, v = attention.read, attention.v
    kernel = None if read is None else read.weight.node.inputs[read.weight.number]
    values = constant(kernel)
    if read is None or v is None or values is None or kernel is None or str(kernel.name) not in graph.weights:
        return None
    heads = np.unique(v.columns, axis=0)
    square = values.ndim == 2 or values.shape[2:] == (1, 1)
    if len(heads) < 2 or not square or len(np.unique(heads)) != heads.size:
        return None
    is_conv, node, flat = values.ndim == 4, read.weight.node, values.reshape(values.shape[:2])
    inputs_first = read.weight.axis % values.ndim == 0
    return Projection(
        name=module_of(str(attention.output.name)),
        x=str(node.inputs[0].name),  # type: ignore[union-attr]
        axis=1 if is_conv else -1,
        output=str(node.outputs[0].name),
        kernel=str(kernel.name),
        inputs_first=inputs_first,
        weight=torch.from_numpy(np.array(flat.T if inputs_first else flat)),
        head_of=torch.from_numpy((read.columns[:, None, None] == heads).any(2).argmax(1)),
        count=len(heads),
    )


def module_of(name: str) -> str:
    """The module that a tensor is computed in: "/blocks/blocks.3/attn/MatMul_1" is of blocks.3.attn."""
    parts = [each for each in name.split("/")[:-1] if each]
    named = [
        part
        for number, part in enumerate(parts)
        if not (number + 1 < len(parts) and parts[number + 1].startswith(f"{part}."))
    ]
    return ".".join(named) or name


def measured(
    graph: Graph, layers: list[Projection], images: Tensor, progress: Progress
) -> dict[str, Moments]:
    """What each layer reads, summed over tokens."""
    found = {each.output: Moments(each.weight.shape[1], each.weight.shape[0]) for each in layers}
    of = {each.x: each for each in layers}
    for done, seen in enumerate(graph.watched(images, of)):
        for name, value in seen.items():
            layer = of[name]
            x = value.movedim(layer.axis, -1).flatten(0, -2)
            found[layer.output].add(x, x.new_zeros(len(x), layer.weight.shape[0]), x.new_ones(len(x)))
        progress.advance(done + 1, len(images), "what the heads give")
    return found


def changed(graph: Graph, layer: Projection, images: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Outputs [n, values] with another weight [outputs, inputs] in one layer, and something added to its bias."""
    own = weight.T if layer.inputs_first else weight
    weights = {layer.kernel: own.reshape(graph.weights[layer.kernel].shape).contiguous()}

    def tap(name: str, value: Tensor) -> Tensor:
        if name != layer.output or bias is None:
            return value
        return (value.movedim(layer.axis, -1) + bias).movedim(-1, layer.axis)

    return graph.outputs(images, tap, weights)
