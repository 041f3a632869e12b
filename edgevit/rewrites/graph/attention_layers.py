"""The layers around an attention that take a factor or a constant of its channels: outputs do not change.

Which outputs of which layer are the queries, keys and values is told by index maps (`views`), so any order of
reshapes, transposes and splits will do, one layer or three, windows or not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgevit.rewrites.graph.attention import Core, core_of
from edgevit.rewrites.graph.scales import multiply
from edgevit.rewrites.graph.streams import Weight, layer_that_reads, layer_that_writes
from edgevit.rewrites.graph.turning import shift_output
from edgevit.rewrites.graph.values import Array, constant, shape_of
from edgevit.rewrites.graph.views import Index, view_of


@dataclass(frozen=True)
class Written:
    """Queries, keys or values as a layer writes them: `columns` [parts, width] are its outputs, which are then
    multiplied by `scale`. A part is a head, of one window where there are several.
    """

    weights: tuple[Weight, ...]  # the kernel, and the bias where there is one
    columns: Index
    scale: float

    @property
    def count(self) -> int:
        """How many outputs the layer has."""
        weight = self.weights[0]
        values = constant(weight.node.inputs[weight.number])
        assert values is not None
        return int(values.shape[weight.axis])

    def own(self, numbers: Array, otherwise: float) -> Array:
        """Numbers [count] for the outputs that are meant, another one for the rest."""
        return np.where(np.isin(np.arange(self.count), self.columns), numbers, otherwise)


@dataclass(frozen=True)
class Read:
    """The layer that is all that reads an attention; `columns` [inputs] are the outputs of the layer of values that
    each of its inputs is a mixture of, times `scale`.
    """

    weight: Weight
    columns: Index
    scale: float


@dataclass(frozen=True)
class Attention:
    """An attention and the layers around it; None for what isn't one, or has another reader too."""

    output: ir.Value
    scores: ir.Value
    core: Core
    q: Written | None
    k: Written | None
    v: Written | None
    read: Read | None

    @property
    def weights(self) -> ir.Value:
        """Attention weights [..., queries, keys]."""
        value = self.output.producer().inputs[0]  # type: ignore[union-attr]
        assert value is not None
        return value

    @property
    def pairs(self) -> Index | None:
        """Which output of the layer of q is multiplied with which of k, [pairs, 2]; None where not one with one."""
        if self.q is None or self.k is None or self.q.columns.shape != self.k.columns.shape:
            return None
        found = np.unique(np.stack([self.q.columns.ravel(), self.k.columns.ravel()], 1), axis=0)
        alone = all(len(np.unique(found[:, side])) == len(found) for side in (0, 1))
        return found if alone else None


def attentions_of(graph: ir.Graph) -> Iterator[Attention]:
    """Every attention of a graph, in order."""
    for node in graph:
        core = core_of(node.outputs[0]) if node.op_type == "MatMul" else None
        if core is None or shape_of(core.v) is None or shape_of(node.outputs[0]) is None:
            continue
        scores = [use.node for use in core.q.uses() if list(use.node.inputs) == [core.q, core.keys_t]]
        if len(scores) != 1:
            continue
        q = written(core.q, scores[0], 0)
        k = written(core.keys_t, scores[0], 1, transposed=True)
        v = written(core.v, node, 1)
        read = read_by(node.outputs[0], core, v)
        yield Attention(node.outputs[0], scores[0].outputs[0], core, q, k, v, read)


def written(value: ir.Value, reader: ir.Node, number: int, *, transposed: bool = False) -> Written | None:
    """What writes a value [parts, tokens, width] (or width, tokens) that this input of this node alone reads."""
    view = view_of(value)
    shape = None if view is None else shape_of(view.source)
    producer = None if view is None else view.source.producer()
    if view is None or shape is None or producer is None:
        return None
    for axis in places_of_channels(shape):
        weights = layer_that_writes(producer, view.source, axis, shape[axis])
        if weights:
            break
    else:
        return None
    index = channels(view.index.swapaxes(-1, -2) if transposed else view.index, shape, axis)
    columns = index.reshape(-1, *index.shape[-2:])
    if (columns != columns[:, :1]).any() or len(np.unique(columns[0, 0])) != columns.shape[-1]:
        return None
    for node, place in ends_of(view.source):
        if node is reader and place == number:
            continue
        other = None if node is None else view_of(node.inputs[place])  # type: ignore[arg-type]
        if other is None or other.source is not view.source:
            return None
        if np.isin(channels(other.index, shape, axis), columns).any():
            return None
    return Written(tuple(weights), columns[:, 0], view.scale)


def places_of_channels(shape: tuple[int, ...]) -> list[int]:
    """The axes on which layers have their channels: the last, and that of convolutions."""
    return sorted({len(shape) - 1, 1 % len(shape)}, reverse=True)


def channels(index: Index, shape: tuple[int, ...], axis: int) -> Index:
    """On which place of an axis elements are, by their positions in a tensor of this shape."""
    return index // int(np.prod(shape[axis + 1 :])) % shape[axis]


def ends_of(value: ir.Value) -> Iterator[tuple[ir.Node | None, int]]:
    """Which inputs of which nodes read a value, through whatever only moves it; no node: a graph's output."""
    if value.is_graph_output():
        yield None, 0
    for use in value.uses():
        view = view_of(use.node.outputs[0])
        if view is not None and view.source is not use.node.outputs[0]:
            for output in use.node.outputs:
                yield from ends_of(output)
        else:
            yield use.node, use.idx


def read_by(output: ir.Value, core: Core, v: Written | None) -> Read | None:
    """The layer that is all that reads an attention's output."""
    shape, ends = shape_of(output), list(ends_of(output))
    if v is None or shape is None or (shape_of(core.v) or ())[:-2] != shape[:-2] or len(ends) != 1:
        return None
    ((node, number),) = ends
    x = None if node is None else node.inputs[number]
    view, given = (None, None) if x is None else (view_of(x), shape_of(x))
    if node is None or view is None or given is None or view.source is not output:
        return None
    for axis in places_of_channels(given):
        at = layer_that_reads(node, number, axis, len(given))
        if at is not None:
            break
    else:
        return None
    part, channel = view.index // (shape[-2] * shape[-1]), view.index % shape[-1]
    columns = np.moveaxis(v.columns[part, channel], axis, -1).reshape(-1, given[axis])
    if (columns != columns[0]).any():
        return None
    return Read(Weight(node, 1, at), columns[0], view.scale)


def shift_values(graph: ir.Graph, attention: Attention, amounts: Array) -> bool:
    """Subtract constants [outputs of the layer of v] from values; what reads the attention adds what they gave.

    P (V + 1mᵀ) = P V + 1mᵀ, as rows of P sum to 1. Gives whether that could be done.
    """
    v, read = attention.v, attention.read
    if v is None or read is None:
        return False
    amounts = v.own(amounts, 0.0)
    kernel = constant(read.weight.node.inputs[read.weight.number])
    assert kernel is not None
    flat = np.moveaxis(kernel.astype(np.float64), read.weight.axis, 0)
    given = np.tensordot(amounts[read.columns] * read.scale * v.scale, flat, (0, 0))
    shift_output(graph, read.weight.node, given.sum(axis=tuple(range(1, given.ndim))))
    shift_output(graph, v.weights[0].node, -amounts)
    return True


def scale_values(attention: Attention, factors: Array) -> bool:
    """Multiply values by factors [outputs of the layer of v]; what reads the attention divides by them."""
    v, read = attention.v, attention.read
    if v is None or read is None:
        return False
    factors = v.own(factors, 1.0)
    multiply(v.weights, factors)
    multiply([read.weight], 1 / factors[read.columns])
    return True


def shift_keys(graph: ir.Graph, attention: Attention, amounts: Array) -> bool:
    """Subtract constants [outputs of the layer of k] from keys: a query's scores move alike, softmax ignores it."""
    if attention.k is None:
        return False
    shift_output(graph, attention.k.weights[0].node, -attention.k.own(amounts, 0.0))
    return True


def scale_queries(attention: Attention, factors: Array) -> bool:
    """Multiply queries by factors, one of each of `pairs`, and divide keys by them: q kᵀ is unchanged."""
    q, k, pairs = attention.q, attention.k, attention.pairs
    if q is None or k is None or pairs is None:
        return False
    for layer, columns, by in ((q, pairs[:, 0], factors), (k, pairs[:, 1], 1 / factors)):
        every = np.ones(layer.count)
        every[columns] = by
        multiply(layer.weights, every)
    return True
