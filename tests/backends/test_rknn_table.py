"""The vendor's table is read by values, edited in place, and anything planned but absent stops the run."""

from __future__ import annotations

import pytest

from edgevit.backends.rknn.table import Entry, edit, match, multiples, read_table
from edgevit.errors import ToolchainError

TABLE = """custom_quantize_layers: {}
quantize_parameters:
    input:
        qtype: asym
        qmethod: layer
        dtype: float32
        min:
        -   -2.5
        max:
        -   2.5
        scale: []
        zero_point: []
    /blocks/blocks.0/norm1/LayerNormalization#1:
        qtype: asym
        qmethod: layer
        dtype: int8
        min:
        -   -4.0
        max:
        -   5.0
        scale:
        -   0.035
        zero_point:
        -   -14
        ori_min:
        -   -4.0
        ori_max:
        -   5.0
    /blocks/blocks.1/Slice_output_0-rs:
        qtype: asym
        qmethod: layer
        dtype: int8
        min:
        -   -7.0
        max:
        -   8.0
        scale:
        -   0.058
        zero_point:
        -   -9
    /blocks/blocks.0/Add_1_output_0-rs:
        qtype: asym
        qmethod: layer
        dtype: int8
        min:
        -   -7.0
        max:
        -   8.0
        scale:
        -   0.058
        zero_point:
        -   -9
    weights:
        qtype: asym
        qmethod: channel
        dtype: int8
        min:
        -   -1.0
        -   -2.0
        max:
        -   1.0
        -   2.0
"""
SEEN = {"blocks.0.norm1": (-4.0001, 5.0), "blocks.0.residual2": (-7.0, 8.0003), "blocks.0.gelu": (-0.17, 3.0)}


def test_tensors_are_found_by_their_values_and_block() -> None:
    found = match(read_table(TABLE), SEEN)
    assert found == {
        "blocks.0.norm1": ["/blocks/blocks.0/norm1/LayerNormalization#1"],
        "blocks.0.residual2": ["/blocks/blocks.1/Slice_output_0-rs", "/blocks/blocks.0/Add_1_output_0-rs"],
        "blocks.0.gelu": [],
    }


def test_per_channel_entries_are_no_tensors() -> None:
    assert "weights" not in read_table(TABLE)


def test_a_tensor_of_a_far_block_with_the_same_values_is_another_one() -> None:
    found = match(read_table(TABLE), {"blocks.5.residual2": (-7.0, 8.0)})
    assert found == {"blocks.5.residual2": []}


def test_16_bit_tensors_are_of_the_platforms_own_type() -> None:
    found = match(read_table(TABLE), SEEN)
    edited = edit(TABLE, found, {}, ["blocks.0.norm1"], "int16")
    assert edited.startswith(
        "custom_quantize_layers:\n    '/blocks/blocks.0/norm1/LayerNormalization#1': int16\n"
    )


def test_ranges_and_types_are_written_and_nothing_else() -> None:
    found = match(read_table(TABLE), SEEN)
    edited = edit(TABLE, found, {"blocks.0.norm1": (-3.0, 4.5)}, ["blocks.0.residual2"], "float16")
    table = read_table(edited)
    assert table["/blocks/blocks.0/norm1/LayerNormalization#1"].range == (-3.0, 4.5)
    assert table["/blocks/blocks.0/Add_1_output_0-rs"].range == (-7.0, 8.0)
    assert edited.startswith(
        "custom_quantize_layers:\n    '/blocks/blocks.1/Slice_output_0-rs': float16\n"
        "    '/blocks/blocks.0/Add_1_output_0-rs': float16\nquantize_parameters:\n"
    )
    changed = [
        pair
        for pair in zip(TABLE.splitlines()[1:], edited.splitlines()[3:], strict=True)
        if len(set(pair)) > 1
    ]
    assert changed == [
        ("        -   -4.0", "        -   -3.000000000000"),
        ("        -   5.0", "        -   4.500000000000"),
    ]


def test_a_planned_tensor_that_is_missing_is_named() -> None:
    found = match(read_table(TABLE), SEEN)
    with pytest.raises(ToolchainError) as caught:
        edit(TABLE, found, {}, ["blocks.0.gelu"], "float16")
    assert str(caught.value) == (
        "cannot realise the precision plan: the compiler's table has no tensor with the values of blocks.0.gelu. "
        "Use --recipe vendor-default, and report the model and the toolkit's version."
    )


def test_the_wrong_text_is_no_table() -> None:
    assert read_table("nothing: here\n") == {}


def entry(name: str, span: tuple[float, float], dtype: str = "int8") -> Entry:
    return Entry(name, dtype, span, (0, 1))


def test_any_graph_s_tensors_are_found_by_their_ranges_alone() -> None:
    entries = {
        each.name: each
        for each in (
            entry("val_3_sw", (-1.0, 2.0)),
            entry("blocks.7/other", (-0.5, 0.25)),
            entry("near", (-1.0, 2.001)),
            entry("logits", (-3.0, 4.0), "float32"),
        )
    }
    seen = {"blocks.0/sum": (-1.0, 2.0), "blocks.2/norm": (-0.5, 0.25), "logits": (-3.0, 4.0)}
    assert match(entries, seen, by_range_alone=True) == {
        "blocks.0/sum": ["val_3_sw"],
        "blocks.2/norm": ["blocks.7/other"],
        "logits": ["logits"],
    }


def test_a_multiple_of_a_tensor_gets_its_range_times_the_constant() -> None:
    """The compiler stores an attention's scores before their scale."""
    scores = entry("sdpa_q_matmul", (-8.0, 16.0))
    weight = entry("norm.weight", (0.0, 1.0))  # any range from zero is a multiple of any other
    seen = {"scores": (-1.0, 2.0), "softmax": (0.0, 0.5)}
    found = match({each.name: each for each in (scores, weight)}, seen, by_range_alone=True)
    entries = {each.name: each for each in (scores, weight)}
    assert multiples(entries, seen, found) == {"sdpa_q_matmul": ("scores", 8.0)}


def test_of_tensors_with_one_range_the_one_of_that_name_is_found() -> None:
    entries = {
        name: Entry(name, "int8", (0.0, 1.0), (1, 2)) for name in ("weights", "weights divided", "its own")
    }
    seen = {"weights": (0.0, 1.0), "weights divided": (0.0, 1.0)}
    found = match(entries, seen, by_range_alone=True)
    assert found["weights divided"] == ["weights divided"]
    assert found["weights"] == ["weights", "its own"]
