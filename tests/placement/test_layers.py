"""Placement as data: what ran where, why it left the NPU, and the same after a trip through JSON."""

from __future__ import annotations

import json

import pytest

from edgevit.backends.rknn.log import parse_log
from edgevit.placement.layers import NO_REASON, CpuOp, Placement
from edgevit.targets.profiles import load_board
from tests.placement.recordings import WITH_TABLE, recorded


def test_json_gives_the_placement_back() -> None:
    placement = parse_log(recorded("tiny-rk3566-int8"))
    values = json.loads(json.dumps(placement.to_json()))
    assert Placement.from_json(values) == placement
    assert (values["cycles"], values["cpu_layers"]) == (placement.cycles, len(placement.cpu_layers))


def test_ops_on_the_cpu_come_with_count_traffic_and_reason() -> None:
    ops = parse_log(recorded("deit-rv1106-int8")).cpu_ops({"exNorm": "no kernel"})
    assert ops == (CpuOp("exNorm", 25, 25 * 38, "no kernel"),)


def test_op_without_a_reason_in_the_profile_says_so() -> None:
    (op,) = parse_log(recorded("deit-rv1106-int8")).cpu_ops({})
    assert op.reason == NO_REASON


def test_input_and_output_are_no_work_on_the_cpu() -> None:
    placement = parse_log(recorded("deit-rk3576-int8"))
    assert {layer.op for layer in placement.layers if layer.target == "CPU"} == {
        "InputOperator",
        "OutputOperator",
    }
    assert placement.cpu_layers == ()


def test_costliest_layers_come_first() -> None:
    rows = parse_log(recorded("deit-rk3588-int8")).costliest(20)
    assert [row.cycles_total for row in rows] == sorted((row.cycles_total for row in rows), reverse=True)


@pytest.mark.parametrize("name", WITH_TABLE)
def test_board_profile_explains_every_op_on_the_cpu(name: str) -> None:
    board = load_board(name.split("-")[1])
    assert board.npu is not None
    for op in parse_log(recorded(name)).cpu_ops(board.npu.cpu_ops):
        assert op.reason != NO_REASON, op
