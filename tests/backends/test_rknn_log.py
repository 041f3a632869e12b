"""The compiler's layer table is read whole or not at all."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from edgevit.backends.rknn.log import parse_log
from edgevit.errors import ToolchainError
from tests.placement.recordings import WITH_TABLE, WITHOUT_TABLE, recorded

ADVICE = "Report it with the toolchain's version and the log."
# Cycles, layers, layers on the CPU by op: counted in the logs with a text tool, not with the parser.
KNOWN = {
    "deit-rk3588-int8": (5_436_628, 167, {"Reshape": 1}),
    "deit-rk3588-float": (10_872_602, 167, {}),
    "deit-rk3576-int8": (6_379_224, 179, {}),
    "deit-rk3566-int8": (11_853_746, 203, {"exSoftmax13": 12, "Transpose": 12, "Reshape": 12}),
    "deit-rv1106-int8": (11_191_032, 167, {"exNorm": 25}),
    "deit-rk2118-float": (58_047_237, 239, {"exNorm": 25}),
    "deit-rk3588-int8-2.3.2": (5_436_628, 131, {"Reshape": 1}),
    "deit-rk3588-float-2.3.2": (10_872_602, 131, {}),
    "deit-rk3566-int8-2.3.2": (11_768_066, 167, {"exSoftmax13": 12, "Transpose": 12}),
    "deit-rv1106-hybrid": (4_300_855, 356, {}),
}


def failure(log: str) -> str:
    with pytest.raises(ToolchainError) as raised:
        parse_log(log)
    return (
        str(raised.value).removeprefix("cannot read the compiler's layer table: ").removesuffix(f". {ADVICE}")
    )


def with_row(change: str) -> str:
    """The log of a build with its row 16 replaced."""
    log, found = re.subn(
        r"(?m)^(D RKNN: \[[\d:.]+\] )16 +Conv\w+ +INT8 .*$", change, recorded("tiny-rk3588-int8")
    )
    assert found == 1
    return log


@pytest.mark.parametrize("name", KNOWN)
def test_totals_are_those_of_the_log(name: str) -> None:
    placement = parse_log(recorded(name))
    cpu = Counter(layer.op for layer in placement.cpu_layers)
    assert (placement.cycles, len(placement.layers), cpu) == KNOWN[name]


def test_weights_of_over_a_million_kilobytes_are_printed_another_way() -> None:
    """Recorded of TNT-S in int8 on RK3588; ViT-L has as many."""
    log, found = re.subn(
        r"Total Weight Memory Size: [\d.]+KB",
        "Total Weight Memory Size: 1.46282e+06KB",
        recorded("deit-rk3588-int8"),
    )
    assert found and parse_log(log).weight_bytes == 1_462_820 * 1024


def test_patch_convolution_is_priced_as_printed() -> None:
    layer = parse_log(recorded("deit-rk3588-int8")).costliest(1)[0]
    assert (layer.op, layer.target, layer.dtype) == ("Conv", "NPU", "INT8")
    assert layer.inputs == ((1, 3, 224, 224), (192, 3, 16, 16), (192,))
    assert layer.outputs == ((1, 192, 53, 53),)
    assert layer.cycles_total == 4_325_376


def test_stem_of_two_layers_costs_what_is_known() -> None:
    layers = parse_log(recorded("deit-rk3588-int8")).layers
    assert sum(layer.cycles_total for layer in layers if "patch_embed" in layer.name) == 4_349_841


@pytest.mark.parametrize("name", WITH_TABLE)
def test_every_line_that_looks_like_a_row_is_counted(name: str) -> None:
    log = recorded(name)
    cycles = [int(total) for total in re.findall(r" \d+/\d+/(\d+) ", log)]
    placement = parse_log(log)
    assert (len(placement.layers), placement.cycles) == (len(cycles), sum(cycles))
    assert placement.internal_bytes > 0
    assert placement.weight_bytes > 0


@pytest.mark.parametrize("name", WITH_TABLE)
def test_total_cycles_are_the_larger_of_memory_and_arithmetic(name: str) -> None:
    for layer in parse_log(recorded(name)).layers:
        assert layer.cycles_total == max(layer.cycles_ddr, layer.cycles_npu)


@pytest.mark.parametrize("name", sorted(WITHOUT_TABLE))
def test_log_without_a_table_is_refused(name: str) -> None:
    assert failure(recorded(name)) == "it is not in the log"


def test_unknown_row_is_refused() -> None:
    assert failure(with_row(r"\1something new")) == "unknown row 'something new'"


def test_unknown_processor_is_refused() -> None:
    log = recorded("tiny-rk3588-int8").replace(
        "INT8     NPU    (1,64,1,1),", "INT8     DSP    (1,64,1,1),", 1
    )
    assert failure(log).startswith("unknown row '3    Concat             INT8     DSP ")


def test_row_broken_by_another_message_is_refused() -> None:
    broken = with_row(r"\g<1>16   ConvExGelu   INT8 E RKNN: [02:19:12.480] Unkown op target: 0")
    assert failure(broken).startswith("unknown row '16   ConvExGelu   INT8 E RKNN")


def test_missing_row_is_refused() -> None:
    assert failure(with_row(r"\1-------------------------")) == "it does not lead from an input to an output"
    without = re.sub(r"(?m)^D RKNN: \[[\d:.]+\] 16 +Conv.*INT8 .*\n", "", recorded("tiny-rk3588-int8"))
    assert failure(without) == "its rows are not numbered from 0 without a gap"


def test_unknown_column_is_refused() -> None:
    log = recorded("tiny-rk3588-int8").replace("RW(KB)  ", "RW(KB) Power  ")
    assert failure(log).startswith("its columns are ID OpType DataType Target")


def test_table_cut_off_is_refused() -> None:
    log = recorded("tiny-rk3588-int8")
    whole_lines = log[: log.index("20   Conv")].rpartition("\n")[0]
    assert failure(whole_lines) == "it has no end"
    end = log.index("<<<<<<<< end: rknn::RKNNModelRegCmdbuildPass")
    assert failure(log[:end]) == "the list of tensors to compare it with is missing"


def test_layer_that_the_tensor_list_does_not_know_is_refused() -> None:
    log = recorded("tiny-rk3588-int8")
    changed = log.replace("5    exNorm             INT8 ", "5    exNorn             INT8 ", 1)
    assert failure(changed) == "it and the list of tensors disagree about layer 5 (exNorm)"


def test_missing_memory_totals_are_refused() -> None:
    log = recorded("tiny-rk3588-int8").replace("Total Weight Memory Size", "Weight")
    assert failure(log) == "the memory totals after it are missing"


def test_two_different_tables_are_refused() -> None:
    both = recorded("tiny-rk3588-int8") + recorded("tiny-rk3588-float")
    assert failure(both) == "the log holds 2 different ones"


def test_table_printed_twice_is_counted_once() -> None:
    log = recorded("tiny-rk3588-int8")
    assert parse_log(log + log) == parse_log(log)


def test_layer_without_a_name_is_counted() -> None:
    """The compiler gives none to the normalisation it puts before a first convolution that it splits."""
    log = recorded("deit-rk3588-float")
    whole = parse_log(log)
    name = whole.layers[1].name
    assert log.count(name) >= 1
    nameless = parse_log(log.replace(name, " " * len(name)))
    assert nameless.layers[1].name == ""
    assert nameless.cycles == whole.cycles
