"""Chains of reshapes and transposes in the fewest operations that do the same."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from edgevit.rewrites.graph.tokens import register
from edgevit.rewrites.graph.values import constant, shape_of
from edgevit.rewrites.graph.views import ORDERS, Index, move


def shorten_moves(graph: ir.Graph) -> int:
    """Write every chain that only reorders elements as a reshape, a transpose and a reshape at most.

    Gives how many changed. The graph is changed in place.
    """
    return sum(shorten(graph, node) for node in list(graph) if ends_chain(node))


def ends_chain(node: ir.Node) -> bool:
    """Whether a node only reorders elements, and something reads it that does not."""
    readers = node.outputs[0].consumers()
    return node.op_type in ORDERS and (not readers or any(each.op_type not in ORDERS for each in readers))


def shorten(graph: ir.Graph, last: ir.Node) -> bool:
    """Replace the chain that ends with a node where that takes fewer transposes, or as many and fewer steps."""
    chain = chain_to(last)
    shape, source = shape_of(last.outputs[0]), chain[0].inputs[0]
    given = shape_of(source)
    if shape is None or given is None or source is None:
        return False
    index = index_of(chain, given)
    if index is None:
        return False
    steps = moves(index, given)
    old = (sum(node.op_type == "Transpose" for node in chain), len(chain))
    if (sum(kind == "Transpose" for kind, _ in steps), len(steps)) >= old:
        return False
    value = source
    for number, (kind, argument) in enumerate(steps):
        name = f"{last.outputs[0].name}_move_{number}"
        inputs, attributes = [value], []
        if kind == "Reshape":
            inputs.append(register(graph, f"{name}_shape", np.asarray(argument, np.int64)))
        else:
            attributes.append(ir.AttrInt64s("perm", argument))
        node = ir.Node("", kind, inputs, attributes=attributes, num_outputs=1)
        node.outputs[0].name = name
        graph.insert_before(last, node)
        value = node.outputs[0]
    value.shape, value.type = ir.Shape(shape), source.type
    ir.convenience.replace_all_uses_with(last.outputs[0], value)
    return True


def chain_to(last: ir.Node) -> list[ir.Node]:
    """The reorderings that lead to a node, the first one first."""
    chain = [last]
    while (before := chain[0].inputs[0].producer()) is not None and before.op_type in ORDERS:  # type: ignore[union-attr]
        if constant(before.inputs[0]) is not None:
            break
        chain.insert(0, before)
    return chain


def index_of(chain: list[ir.Node], given: tuple[int, ...]) -> Index | None:
    """Which element of its source, of shape `given`, each one behind a chain is; None where that isn't known."""
    index: Index | None = np.arange(math.prod(given), dtype=np.int64).reshape(given)
    for node in chain:
        after = shape_of(node.outputs[0])
        index = None if index is None or after is None else move(node, node.outputs[0], index, after)
    return index


def moves(index: Index, given: tuple[int, ...]) -> list[tuple[str, list[int]]]:
    """The operations that reorder a tensor of shape `given` by an index map: none, a reshape, or a transpose
    between two reshapes where they are needed.
    """
    factors = factored(index.reshape(-1))  # (size, stride), outermost first
    order = sorted(range(len(factors)), key=lambda each: -factors[each][1])
    if order == list(range(len(factors))):
        return [] if index.shape == given else [("Reshape", list(index.shape))]
    lead = [1] if len(factors) in (2, 3) else []
    before = lead + [factors[each][0] for each in order]
    after = lead + [size for size, _ in factors]
    perm = [*range(len(lead)), *(len(lead) + order.index(each) for each in range(len(factors)))]
    steps = [("Transpose", perm)]
    if tuple(before) != given:
        steps.insert(0, ("Reshape", before))
    if tuple(after) != index.shape:
        steps.append(("Reshape", list(index.shape)))
    return steps


def factored(index: Index) -> list[tuple[int, int]]:
    """The (size, stride) of the axes that an index map runs over, outermost first, as few as there can be."""
    found: list[tuple[int, int]] = []
    while len(index) > 1:
        stride = int(index[1] - index[0])
        steps = np.flatnonzero(np.diff(index) != stride)
        size = int(steps[0]) + 1 if len(steps) else len(index)
        # An axis whose end runs on into the next by chance would not divide the rest.
        while len(index) % size:
            size -= 1
        found.insert(0, (size, stride))
        index = index[::size]
    return found
