"""Which few of many layers cost a quantized model most: found by halves, not one by one."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Sequence

SHARE = 0.05  # of what all layers cost together: less is not worth leaving a layer out for


def costliest(
    layers: Sequence[str],
    cost: Callable[[Sequence[str]], float],
    *,
    most: int,
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, float]:
    """At most `most` single layers, the costliest first, with what each costs.

    `cost` tells what some layers cost together; it is taken to add up, roughly, so that a group that costs little
    has no costly layer in it. Layers should come in the graph's order: costly ones lie close together. Each that
    costs SHARE of all is found unless the `seconds` are over.
    """
    if not layers:
        return {}
    deadline, whole, found = clock() + seconds, cost(layers), dict[str, float]()
    groups = [(-whole, 0, tuple(layers))]
    made = 0
    while groups and len(found) < most:
        value, _, group = heapq.heappop(groups)
        if -value < SHARE * whole:
            break
        if len(group) == 1:
            found[group[0]] = -value
            continue
        for half in (group[: len(group) // 2], group[len(group) // 2 :]):
            if clock() > deadline:
                return found
            made += 1
            heapq.heappush(groups, (-cost(half), made, half))
    return found
