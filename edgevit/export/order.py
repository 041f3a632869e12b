"""The order of a graph's nodes: what a value is made of stands right before it."""

from __future__ import annotations

import onnx


def depth_first(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Sort the nodes so that no other branch stands between the parts of one operation, in place.

    rknn-toolkit2 knows a GELU by five nodes in a row. Simplifiers sort by depth, which mixes parallel branches, and
    their GELUs stay on the CPU.
    """
    makers = {name: node for node in graph.graph.node for name in node.output}
    places = {node.output[0]: place for place, node in enumerate(graph.graph.node)}
    placed: set[int] = set()
    ordered: list[onnx.NodeProto] = []
    # Unread nodes too: the checker sees to those.
    ends = [value.name for value in graph.graph.output] + [node.output[0] for node in graph.graph.node]
    for end in ends:
        waiting = [(makers[end], False)] if end in makers else []
        while waiting:
            node, ready = waiting.pop()
            place = places[node.output[0]]
            if place in placed:
                continue
            if ready:
                placed.add(place)
                ordered.append(node)
                continue
            waiting.append((node, True))
            needed = [makers[name] for name in reversed(node.input) if name in makers]
            waiting += [(each, False) for each in needed if places[each.output[0]] not in placed]
    del graph.graph.node[:]
    graph.graph.node.extend(ordered)
    return graph
