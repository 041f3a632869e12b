"""What an artefact says of itself fits into the room that its format has."""

from __future__ import annotations

import json

from edgevit.conversion.description import description_of
from edgevit.images.preprocessing import Preprocessing
from edgevit.outputs.output import Output, Outputs

PLAIN = Preprocessing((32, 32))


def described(names: list[str], room: int | None) -> str:
    return description_of(PLAIN, Outputs((Output("logits", "logits", (len(names),)),)), names, room)


def test_names_are_there_where_they_fit_and_nothing_is_cut_off() -> None:
    names = [f"class {number}" for number in range(1000)]
    assert json.loads(described(names, None))["labels"] == names
    few = json.loads(described(names, 1023))
    assert "labels" not in few
    assert few["outputs"] == [{"name": "logits", "kind": "logits"}]
    assert few["input"]["mean"] == [round(value, 6) for value in PLAIN.mean]


def test_names_in_any_script_are_ascii_and_counted_as_they_are_written() -> None:
    names = ["裂纹", "划痕", 'a "quoted" one']
    text = described(names, 1023)
    assert text.isascii()
    assert json.loads(text)["labels"] == names


def test_a_name_longer_than_the_room_leaves_the_input() -> None:
    outputs = Outputs((Output("x" * 2000, "tensor"),))
    assert list(json.loads(description_of(PLAIN, outputs, None, 1023))) == ["made_by", "input"]
