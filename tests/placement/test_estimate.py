"""The latency estimate: what moves it which way, where it is refused, and that its costs come from its data."""

from __future__ import annotations

from dataclasses import astuple, replace
from functools import lru_cache
from statistics import median

import pytest

from benchmarks.latency import fit as published
from edgevit.backends.rknn.log import parse_log
from edgevit.errors import InputError
from edgevit.placement.estimate import LATENCY_TERMS, estimate, fitted
from edgevit.placement.layers import Layer, Placement
from edgevit.targets.profiles import load_board
from tests.placement.recordings import WITH_TABLE, recorded

COSTS = fitted().costs
RK3588 = load_board("rk3588")


@lru_cache
def compiled(name: str) -> Placement:
    return parse_log(recorded(name))


def of_layers(*layers: Layer) -> Placement:
    return Placement(layers, 0, 0)


def first(name: str, op: str) -> Layer:
    return next(layer for layer in compiled(name).layers if layer.op == op)


def milliseconds(*layers: Layer) -> float:
    return estimate(of_layers(*layers), RK3588).latency_ms


@pytest.mark.parametrize("name", [name for name in WITH_TABLE if name.startswith("deit")])
def test_estimate_is_positive_inside_its_interval_and_the_sum_of_its_parts(name: str) -> None:
    board = load_board(name.split("-")[1])
    if board.npu is None or not board.npu.clock_hz:
        pytest.skip("the profile gives no clock")
    found = estimate(compiled(name), board)
    assert 0 < found.low_ms < found.latency_ms < found.high_ms
    assert set(found.parts) == set(LATENCY_TERMS)
    assert min(found.parts.values()) >= 0
    assert sum(found.parts.values()) == pytest.approx(found.latency_ms)
    assert found.label == "edgevit estimate"


def test_norms_and_attention_are_not_free_as_in_the_compilers_count() -> None:
    parts = estimate(compiled("deit-rk3588-float"), RK3588).parts
    assert parts["norms"] > 0.5
    assert parts["attention"] > parts["norms"]


@pytest.mark.parametrize("op", ["Add", "Slice", "Conv", "exNorm", "exSDPAttention"])
def test_more_traffic_and_more_cycles_never_make_a_layer_faster(op: str) -> None:
    layer = first("deit-rk3588-int8", op)
    longer = {
        key: getattr(layer, key) * 2 + 1000
        for key in ("traffic_kb", "cycles_ddr", "cycles_npu", "cycles_total")
    }
    for key, value in longer.items():
        assert milliseconds(replace(layer, **{key: value})) >= milliseconds(layer)
    assert milliseconds(replace(layer, **longer)) >= milliseconds(layer)


def test_elementwise_layer_takes_longer_with_more_traffic() -> None:
    layer = first("deit-rk3588-int8", "Add")
    assert milliseconds(replace(layer, traffic_kb=layer.traffic_kb * 10)) > milliseconds(layer)


@pytest.mark.parametrize("op", ["Add", "Conv", "exNorm", "exSDPAttention", "Reshape"])
def test_the_cpu_takes_longer_than_the_npu(op: str) -> None:
    layer = first("deit-rk3588-int8", op)
    on_npu, on_cpu = (replace(layer, target=target) for target in ("NPU", "CPU"))
    assert milliseconds(on_cpu) > milliseconds(on_npu)
    assert estimate(of_layers(on_cpu), RK3588).parts["cpu"] == milliseconds(on_cpu)


def test_attention_grows_with_the_square_of_the_tokens() -> None:
    shapes = [((3, 64, 1, tokens),) * 2 for tokens in (200, 400)]
    layers = [replace(first("deit-rk3588-int8", "exSDPAttention"), inputs=shape) for shape in shapes]
    launch = COSTS.launch
    assert milliseconds(layers[1]) - launch == pytest.approx(4 * (milliseconds(layers[0]) - launch))


def test_weights_are_read_again_for_an_input_larger_than_the_buffer() -> None:
    layer = replace(
        first("deit-rk3588-float", "ConvAdd"), inputs=((1, 2048, 1, 64), (512, 2048, 1, 1), (512,))
    )
    wider = replace(layer, inputs=((1, 2048, 1, 128), (512, 2048, 1, 1), (512,)))
    again_ms = COSTS.megabyte * 512 * 2048 * 2 / 1e6
    assert milliseconds(wider) - milliseconds(layer) == pytest.approx(again_ms)


def test_border_rows_and_renamed_dimensions_cost_nothing_on_the_npu() -> None:
    rows = [
        row for row in compiled("deit-rk3576-int8").layers if row.op in ("InputOperator", "OutputOperator")
    ]
    reshape = replace(first("deit-rk3588-int8", "Reshape"), target="NPU")
    assert milliseconds(*rows, reshape) == 0


@pytest.mark.parametrize("name", ["rv1103b", "onnx"])
def test_board_without_a_clock_is_refused(name: str) -> None:
    board = load_board(name)
    with pytest.raises(InputError) as caught:
        estimate(compiled("deit-rk3588-int8"), board)
    assert str(caught.value) == (
        f"cannot estimate the latency on {board.name}: its profile gives no NPU clock or no multiply-accumulates "
        "per cycle. Measure on the board, or add npu.clock_hz and npu.macs_per_cycle_int8 to the profile."
    )


def test_board_that_nobody_measured_gets_the_wider_interval() -> None:
    known = estimate(compiled("deit-rk3588-int8"), RK3588)
    other = estimate(compiled("deit-rk3588-int8"), RK3588.model_copy(update={"id": "mine"}))
    assert other.latency_ms == known.latency_ms
    assert other.high_ms >= known.high_ms
    assert other.low_ms <= known.low_ms


def test_interval_is_wider_where_the_cpu_works() -> None:
    layer = first("deit-rk3588-int8", "exNorm")
    on_npu, on_cpu = (estimate(of_layers(replace(layer, target=target)), RK3588) for target in ("NPU", "CPU"))
    assert on_cpu.high_ms / on_cpu.latency_ms > on_npu.high_ms / on_npu.latency_ms


def test_memory_at_half_the_clock_slows_what_waits_for_it() -> None:
    ddr = RK3588.clocks["ddr"]
    slow = RK3588.model_copy(update={"clocks": {"ddr": ddr.model_copy(update={"pin": (ddr.pin or 0) // 2})}})
    layer = of_layers(first("deit-rk3588-int8", "Add"))
    (fast, halved) = (estimate(layer, board).parts["elementwise"] for board in (RK3588, slow))
    assert halved == pytest.approx(2 * fast)


def test_fitted_costs_are_those_the_published_figures_give() -> None:
    assert astuple(fitted().costs) == pytest.approx(astuple(published.fit(*published.published())), rel=0.01)


def test_left_out_points_are_within_a_quarter_at_the_median_and_within_the_interval() -> None:
    table = published.leave_one_out()
    assert len(table) == 12
    for name in ("without_point", "without_model", "without_board"):
        assert median(abs(getattr(row, name)) for row in table) < 0.25, name
    assert published.spread(row.without_model for row in table) <= fitted().spread * 1.001
    assert published.spread(row.without_board for row in table) <= fitted().spread_other_boards * 1.001


def test_whole_transformers_unseen_by_the_fit_are_within_their_interval() -> None:
    for each, off in zip(published.encoders(), published.encoders_left_out(), strict=True):
        found = estimate(of_layers(*each.layers), load_board(each.board))
        assert found.low_ms < each.ms < found.high_ms
        assert abs(off) < 0.25
