"""Which few of many layers cost most: found by halves, in few measurements."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from edgevit.backends.costliest import SHARE, costliest

LAYERS = [f"layer{number}" for number in range(48)]


def adding_up(costs: dict[str, float], asked: list[int]) -> object:
    def cost(group: Sequence[str]) -> float:
        asked.append(len(group))
        return sum(costs[name] for name in group)

    return cost


def test_two_neighbours_are_found_in_a_third_of_the_measurements() -> None:
    costs, asked = dict.fromkeys(LAYERS, 0.001), list[int]()
    costs["layer30"], costs["layer31"] = 0.3, 0.1
    found = costliest(LAYERS, adding_up(costs, asked), most=8, seconds=60)
    assert list(found) == ["layer30", "layer31"]
    assert len(asked) <= 16


def test_where_all_cost_alike_none_stands_out() -> None:
    costs, asked = dict.fromkeys(LAYERS, 0.01), list[int]()
    assert costliest(LAYERS, adding_up(costs, asked), most=8, seconds=60) == {}


def test_time_that_runs_out_ends_it_with_what_was_found() -> None:
    costs, ticks = dict.fromkeys(LAYERS, 0.0) | {"layer0": 1.0}, iter(range(100))
    cost = adding_up(costs, [])
    assert costliest(LAYERS, cost, most=8, seconds=3, clock=lambda: next(ticks)) == {}


def test_no_layers_cost_nothing() -> None:
    assert costliest([], lambda group: 1.0, most=8, seconds=60) == {}


@settings(max_examples=60)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_every_layer_beyond_the_share_is_found_where_costs_add_up(costs: list[float]) -> None:
    by_name = {f"layer{number}": each for number, each in enumerate(costs)}
    found = costliest(list(by_name), adding_up(by_name, []), most=40, seconds=60)
    sure = {name for name, each in by_name.items() if each > 1.001 * SHARE * sum(costs)}
    assert sure <= set(found)
    assert list(found.values()) == sorted(found.values(), reverse=True)
