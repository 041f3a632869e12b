"""Rewrites that pay, by what the target's compiler says of the graph with and without them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import onnx

from edgevit.errors import EdgevitError
from edgevit.placement.estimate import Cost
from edgevit.rewrites.graph.apply import Images, Rewritten, rewrite_graph
from edgevit.targets.profiles import Npu

# What changes how many operations there are; the others only make them smaller.
MOVES = ("pad-heads", "pad-tokens", "softmax-by-norm", "token-rows", "fuse-activations", "split-moves")
LARGE = 150_000_000  # bytes of a graph of which two compilers at once take gigabytes more than one
SELDOM = ("pad-heads", "fuse-activations", "split-moves")  # what few models need, of those


def rewrite_where_it_pays(
    graph: onnx.ModelProto,
    names: Sequence[str],
    images: Images,
    npu: Npu | None,
    cost: Callable[[onnx.ModelProto], Cost] | None,
) -> Rewritten:
    """The graph with those rewrites whose result the compiler prices lowest; without a `cost`, with all of them.

    Tried are all, all but those that few models need, all but those that move tokens about, and none. What was left
    out says so in its record.
    """
    whole = rewrite_graph(graph, names, images, npu)
    if cost is None or not any(each.changed for each in whole.records):
        return whole
    variants = [whole]
    for more in (SELDOM, MOVES):
        if any(each.changed and each.name in more for each in variants[-1].records):
            fewer = [name for name in names if name not in more]
            variants.append(rewrite_graph(graph, fewer, images, npu))
    if any(each.changed for each in variants[-1].records):
        variants.append(Rewritten(graph, ()))
    with ThreadPoolExecutor(1 if graph.ByteSize() > LARGE else 2) as pool:
        costs = list(pool.map(lambda each: priced(each, cost), variants))
    best = variants[min(range(len(variants)), key=lambda number: (costs[number], number))]
    kept = {each.name for each in best.records if each.changed}
    records = [
        replace(each, changed=False, what=f"left out, the compiler's estimate is higher with it: {each.what}")
        if each.changed and each.name not in kept
        else each
        for each in whole.records
    ]
    return Rewritten(best.graph, tuple(records))


def priced(rewritten: Rewritten, cost: Callable[[onnx.ModelProto], Cost]) -> Cost:
    """A variant's cost; infinite where the compiler fails on it."""
    try:
        return cost(rewritten.graph)
    except EdgevitError:
        return (float("inf"),)
