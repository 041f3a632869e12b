"""Exact changes around a graph's attentions that leave int8 less to lose.

What `quantize.equalization` and `quantize.value_shift` do to a plain ViT's blocks, for any attention of a graph:
constants moved out of values and keys, channels made equally wide.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_ir as ir

from edgevit.export.graph_in_torch import Graph
from edgevit.export.operands import Tensor
from edgevit.quantize.equalization import LIMIT
from edgevit.quantize.fake_quantization import fake_quantize
from edgevit.quantize.graph.statistics import extremes
from edgevit.rewrites.graph.attention_layers import (
    Attention,
    Written,
    attentions_of,
    scale_queries,
    scale_values,
    shift_keys,
    shift_values,
)
from edgevit.rewrites.graph.values import Array, opened
from edgevit.rewrites.graph.views import Index

SMALLEST = 1e-6
# A tensor, the layer that its channels come from, whether they come first.
Side = tuple[ir.Value, Written, bool]


@dataclass
class Channels:
    """Of each output [count] of a layer, as an attention sees it: its ends, and the sum and number of means."""

    low: Array
    high: Array
    total: Array
    number: Array

    @classmethod
    def of(cls, count: int) -> Channels:
        """Nothing seen yet."""
        return cls(np.zeros(count), np.zeros(count), np.zeros(count), np.zeros(count))

    def add(self, columns: Index, value: Tensor) -> None:
        """What one image shows, [parts, tokens, width]."""
        np.minimum.at(self.low, columns, value.amin(1).numpy())
        np.maximum.at(self.high, columns, value.amax(1).numpy())
        np.add.at(self.total, columns, value.mean(1).numpy())
        np.add.at(self.number, columns, 1)

    @property
    def mean(self) -> Array:
        """Zero for outputs that the attention doesn't read."""
        return self.total / np.maximum(self.number, 1)

    @property
    def widest(self) -> Array:
        """The largest magnitude of each."""
        return np.maximum(np.maximum(-self.low, self.high), SMALLEST)


@dataclass
class Seen:
    """What images show of one attention; `lost` and `squared` are sums over queries for each output of v."""

    channels: dict[str, Channels] = field(default_factory=dict)
    lost: Array = field(default_factory=lambda: np.zeros(0))
    squared: Array = field(default_factory=lambda: np.zeros(0))


Move = Callable[[ir.Graph, Attention, Seen], bool]


def centre_values(graph: ir.Graph, attention: Attention, seen: Seen) -> bool:
    """Values get mean 0: what rows of int8 weights miss to 1 then multiplies little."""
    v = attention.v
    return v is not None and shift_values(graph, attention, seen.channels["v"].mean / v.scale)


def fitted_values(graph: ir.Graph, attention: Attention, seen: Seen) -> bool:
    """Values shifted to where rounded attention weights lose least, by least squares."""
    v = attention.v
    return v is not None and shift_values(
        graph, attention, seen.lost / np.maximum(seen.squared, 1e-12) / v.scale
    )


def centre_keys(graph: ir.Graph, attention: Attention, seen: Seen) -> bool:
    """Keys get mean 0."""
    k = attention.k
    return k is not None and shift_keys(graph, attention, seen.channels["k"].mean / k.scale)


def even_values(graph: ir.Graph, attention: Attention, seen: Seen) -> bool:
    """Narrow channels of values get wider, half-way in logarithms to the widest.

    All the way, each would leave its range on images that reach a little further.
    """
    if attention.v is None or "out" not in seen.channels:
        return False
    read, factors = np.unique(attention.v.columns), np.ones(attention.v.count)
    made, mixed = (seen.channels[name].widest[read] for name in ("v", "out"))
    factors[read] = bounded(np.sqrt(np.minimum(made.max() / made, mixed.max() / mixed)))
    return scale_values(attention, factors)


def even_queries(graph: ir.Graph, attention: Attention, seen: Seen) -> bool:
    """Relative to the widest, q and k get the geometric mean of both shares."""
    pairs = attention.pairs
    if pairs is None:
        return False
    q, k = seen.channels["q"].widest[pairs[:, 0]], seen.channels["k"].widest[pairs[:, 1]]
    return scale_queries(attention, bounded(np.sqrt((k / k.max()) / (q / q.max()))))


# In the order in which they are tried; of each, the ways to make it.
MOVES: tuple[tuple[str, tuple[tuple[str, Move], ...]], ...] = (
    (
        "shift-values",
        (
            ("value means moved into the layer behind the attention", centre_values),
            ("values shifted against int8 attention weights, the layer behind undoes it", fitted_values),
        ),
    ),
    ("centre-keys", (("key means dropped, softmax ignores them", centre_keys),)),
    ("equalise-values", (("narrow channels of v made wider, the layer behind undoes it", even_values),)),
    ("equalise-queries", (("channels of q and k made equally wide", even_queries),)),
)


def bounded(factors: Array) -> Array:
    """A larger factor would only move a tensor's trouble into a weight."""
    return np.clip(factors, 1 / LIMIT, LIMIT)


def changed(proto: onnx.ModelProto, seen: Sequence[Seen], move: Move) -> tuple[ir.Model, int]:
    """A graph with a move made around every attention that allows it, and how many those are."""
    model = opened(proto)
    each = list(attentions_of(model.graph))
    return model, sum([move(model.graph, one, what) for one, what in zip(each, seen, strict=True)])


def tensors_of(proto: onnx.ModelProto) -> set[str]:
    """The tensors in and around a graph's attentions."""
    return {
        str(value.name)
        for each in attentions_of(opened(proto).graph)
        for product in (each.output, each.scores)
        for value in (product, each.weights, each.core.q, each.core.keys_t, each.core.v)
    }


def observe(proto: onnx.ModelProto, images: Tensor) -> list[Seen]:
    """What normalised images [n, channels, height, width] show of each attention."""
    graph, every = Graph(proto), list(attentions_of(opened(proto).graph))
    ends = extremes(graph, [str(each.weights.name) for each in every], images)
    found = [Seen() for _ in every]
    for each, seen in zip(every, found, strict=True):
        for name, (_, layer, _) in sides(each).items():
            seen.channels[name] = Channels.of(layer.count)
        if each.v is not None:
            seen.lost, seen.squared = np.zeros(each.v.count), np.zeros(each.v.count)
    wanted = {
        str(value.name)
        for each in every
        for value in (*(side[0] for side in sides(each).values()), each.weights)
    }
    for kept in graph.watched(images, wanted):
        for each, seen in zip(every, found, strict=True):
            look(each, seen, kept, float(ends[str(each.weights.name)][1].max()))
    return found


def sides(attention: Attention) -> dict[str, Side]:
    """What is looked at of an attention: those of its tensors whose channels a layer writes."""
    core, v = attention.core, attention.v
    found = {
        "q": (core.q, attention.q, False),
        "k": (core.keys_t, attention.k, True),
        "v": (core.v, v, False),
    }
    if attention.read is not None:
        found["out"] = (attention.output, v, False)
    return {name: (value, layer, first) for name, (value, layer, first) in found.items() if layer is not None}


def look(attention: Attention, seen: Seen, kept: dict[str, Tensor], highest: float) -> None:
    """Note what one image shows; `highest` is the largest attention weight of all."""
    for name, (value, layer, first) in sides(attention).items():
        given = kept[str(value.name)]
        given = given.transpose(-1, -2) if first else given
        seen.channels[name].add(layer.columns, given.reshape(len(layer.columns), -1, given.shape[-1]))
    if attention.v is None or attention.read is None:
        return
    values, weights = kept[str(attention.core.v.name)], kept[str(attention.weights.name)]
    missed = fake_quantize(weights, 0.0, highest) - weights
    missing, lost = missed.sum(-1, keepdim=True), missed @ values
    columns = attention.v.columns
    np.add.at(seen.lost, columns, (missing * lost).sum(-2).reshape(columns.shape).numpy())
    squared = missing.square().sum(-2).reshape(len(columns), 1).numpy()
    np.add.at(seen.squared, columns, np.broadcast_to(squared, columns.shape))
