"""Places of a map in another order, by cutting it up and putting the parts together again.

NPUs that can't transpose more than two axes still cut, reshape and join along a row of pixels: windows taken out of
a map and put back, pixels of the same place in each patch, are that many of these.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgevit.rewrites.graph.layouts import chain_to, ends_chain, factored, index_of
from edgevit.rewrites.graph.tokens import register
from edgevit.rewrites.graph.values import shape_of
from edgevit.rewrites.graph.views import Index

MAX_PARTS = 32  # of one reordering; more would cost more than a transpose


def split_moves(graph: ir.Graph) -> int:
    """Write every reordering of places that leaves channels alone as cuts and joins; how many there were.

    The graph is changed in place.
    """
    return sum(split_move(graph, node) for node in list(graph) if ends_chain(node))


def split_move(graph: ir.Graph, last: ir.Node) -> bool:
    """Replace the chain of reorderings that ends with a node, where it moves places and leaves channels alone."""
    chain = chain_to(last)
    source = chain[0].inputs[0]
    given = shape_of(source)
    index = None if given is None else index_of(chain, given)
    if source is None or given is None or index is None or given[0] != 1:
        return False
    for channels in {3: (2,), 4: (1, 3)}.get(len(given), ()):  # of tokens, of a map
        found = places_of(index, given, channels)
        factors = factored(found.order) if found else []
        swaps = swaps_of(factors) if len(factors) > 2 else []  # two axes are what NPUs transpose
        if found and swaps and sum(min(a, b) for _, a, b, _ in swaps) <= MAX_PARTS:
            write(graph, last, source, channels, found, swaps)
            return True
    return False


@dataclass(frozen=True)
class Places:
    """Of a view: which place of the source each of its places is, the axis of its channels, and how many places
    stand beside each other there, which come first in `order`."""

    order: Index
    axis: int
    together: int = 1


def places_of(index: Index, given: tuple[int, ...], channels: int) -> Places | None:
    """The places of a view of a source whose channels are on this axis; None where channels mix."""
    width = given[channels]
    behind = math.prod(given[channels + 1 :])
    for axis, size in enumerate(index.shape):
        last, together = axis == index.ndim - 1, size // width
        if width == 1 or size % width or (together > 1 and not last):
            continue
        if not last and math.prod(index.shape[:axis]) > 1:
            continue
        apart = index.reshape(*index.shape[:axis], together, width, *index.shape[axis + 1 :])
        apart = np.moveaxis(apart, (axis + 1, axis), (0, 1)).reshape(width, -1)
        channel, place = apart // behind % width, apart // (behind * width) * behind + apart % behind
        if (channel == np.arange(width)[:, None]).all() and (place == place[0]).all():
            return Places(place[0], axis, together)
    return None


def swaps_of(factors: list[tuple[int, int]]) -> list[tuple[int, int, int, int]]:
    """The swaps (before, a, b, behind) of neighbouring axes that bring axes (size, stride) into the order given.

    They begin in the order of their strides; `before` and `behind` are how many places the others have.
    """
    wanted = list(range(len(factors)))
    now = sorted(wanted, key=lambda each: -factors[each][1])
    found = []
    for number in wanted:
        at = now.index(number)
        if at > number:
            sizes = [factors[each][0] for each in now]
            before, passed = math.prod(sizes[:number]), math.prod(sizes[number:at])
            found.append((before, passed, sizes[at], math.prod(sizes[at + 1 :])))
            now.insert(number, now.pop(at))
    return found


def write(
    graph: ir.Graph,
    last: ir.Node,
    source: ir.Value,
    channels: int,
    found: Places,
    swaps: list[tuple[int, int, int, int]],
) -> None:
    """Put cuts and joins in the place of a node; the source has its channels on the axis `channels`."""
    output, steps = last.outputs[0], 0

    def emit(kind: str, inputs: list[ir.Value], *attributes: ir.Attr, outputs: int = 1) -> ir.Node:
        nonlocal steps
        node = ir.Node("", kind, inputs, attributes=list(attributes), num_outputs=outputs)
        for number, each in enumerate(node.outputs):
            each.name = f"{output.name}_swap_{steps}" + (f"_{number}" if outputs > 1 else "")
        steps += 1
        graph.insert_before(last, node)
        return node

    def reshaped(value: ir.Value, *sizes: int) -> ir.Value:
        wanted = register(graph, f"{output.name}_swap_{steps}_shape", np.asarray(sizes, np.int64))
        return emit("Reshape", [value, wanted]).outputs[0]

    def turned(value: ir.Value, order: list[int]) -> ir.Value:
        return emit("Transpose", [value], ir.AttrInt64s("perm", order)).outputs[0]

    def cut(value: ir.Value, count: int, size: int) -> list[ir.Value]:
        sizes = register(graph, f"{output.name}_swap_{steps}_parts", np.full(count, size, np.int64))
        return list(emit("Split", [value, sizes], ir.AttrInt64("axis", 3), outputs=count).outputs)

    def joined(parts: list[ir.Value], axis: int) -> ir.Value:
        return emit("Concat", parts, ir.AttrInt64("axis", axis)).outputs[0]

    before, after = shape_of(source) or (), shape_of(output) or ()
    width = before[channels]
    places, value = math.prod(before) // width, source
    if channels > 1:  # tokens
        value = turned(reshaped(value, 1, places, width), [0, 2, 1])
    for lead, a, b, behind in swaps:
        if a <= b:
            parts = cut(reshaped(value, 1, width, lead, a * b * behind), a, b * behind)
            value = joined([reshaped(each, 1, width, lead * b, behind) for each in parts], 3)
        else:
            parts = cut(reshaped(value, 1, width, lead * a, b * behind), b, behind)
            value = joined([reshaped(each, 1, width, lead, a * behind) for each in parts], 3)
    if found.together > 1:
        places //= found.together
        row = reshaped(value, 1, width, 1, found.together * places)
        value = joined(cut(row, found.together, places), 1)
        width *= found.together
    if math.prod(after[: found.axis]) > 1:
        value = turned(reshaped(value, 1, width, places), [0, 2, 1])
    value = reshaped(value, *after)
    value.shape, value.type = ir.Shape(after), source.type
    ir.convenience.replace_all_uses_with(output, value)
