"""What the user says of a model's images on the command line: read, or refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgevit.errors import InputError
from edgevit.images.preprocessing_request import PreprocessingRequest, parse_preprocessing


def parsed(**options: Any) -> PreprocessingRequest:
    return parse_preprocessing(options)


def test_nothing_said_is_nothing_asked() -> None:
    assert not parsed(mean=None, crop=None).any
    assert parsed().to_json() is None


def test_options_are_taken_out_of_the_others() -> None:
    options = {"mean": "0.5", "seed": 3, "classes": None}
    parse_preprocessing(options)
    assert options == {"seed": 3}


@pytest.mark.parametrize(
    ("given", "read"),
    [("0.5", (0.5,)), ("0.485,0.456,0.406", (0.485, 0.456, 0.406)), (0.5, (0.5,)), ((0, 0, 0), (0, 0, 0))],
)
def test_mean_is_one_number_or_one_a_channel(given: Any, read: tuple[float, ...]) -> None:
    assert parsed(mean=given).mean == read


@pytest.mark.parametrize(
    ("given", "mode", "share"),
    [
        ("0.875", "center", 0.875),
        ("none", "center", 1.0),
        ("squash", "squash", None),
        ("border", "border", None),
    ],
)
def test_crop_is_a_share_or_a_way_to_fit(given: str, mode: str, share: float | None) -> None:
    request = parsed(crop=given)
    assert (request.crop_mode, request.crop_pct) == (mode, share)


def test_size_is_one_number_or_height_by_width() -> None:
    assert parsed(input_size="224").size == (224, 224)
    assert parsed(input_size="192x224").size == (192, 224)
    assert parsed(input_size=(192, 224)).size == (192, 224)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"mean": "a,b"}, "--mean a,b can't be used: it is not numbers with commas between them. "),
        ({"mean": ""}, "--mean  can't be used: it is not numbers with commas between them. "),
        ({"mean": "nan"}, "--mean nan can't be used: it is not numbers with commas between them. "),
        ({"mean": "0.1,0.2"}, "--mean 0.1,0.2 can't be used: it has 2 numbers. "),
        (
            {"mean": "123.675,116.28,103.53"},
            "--mean 123.675,116.28,103.53 can't be used: it looks like units of 0..255, and is read in units of "
            "0..1. Use --mean 0.485,0.456,0.406.",
        ),
        ({"mean": "-0.5"}, "--mean -0.5 can't be used: it is not within 0 to 1. "),
        ({"std": "0"}, "--std 0 can't be used: it is not within above 0 to 1. "),
        ({"input_size": "0"}, "--input-size 0 can't be used: it is not a size in pixels. "),
        ({"input_size": "224x"}, "--input-size 224x can't be used: it is not a size in pixels. "),
        (
            {"crop": "2"},
            "--crop 2 can't be used: it is no share of the shorter side and no way ",
        ),
        (
            {"crop": "nan"},
            "--crop nan can't be used: it is no share of the shorter side and no way ",
        ),
        (
            {"interpolation": "cubic"},
            "--interpolation cubic is not known: no such filter. Use nearest, ",
        ),
        ({"channels": "GRB"}, "--channels GRB is not known: no such order. Use RGB, BGR, L."),
    ],
)
def test_what_cannot_be_used_is_one_line(options: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError) as caught:
        parsed(**options)
    assert str(caught.value).startswith(line)


def test_class_names_are_the_lines_of_a_file(tmp_path: Path) -> None:
    names = tmp_path / "labels.txt"
    names.write_bytes("\ufeffscratch\r\nRost ä\r\n\r\n".encode())
    assert parsed(classes=names).classes == ("scratch", "Rost ä")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "it has no names"),
        (b"\n\n", "it has no names"),
        (b"a\n\nb\n", "line 2 is empty"),
        (b"a\nb\na\n", "'a' stands there twice"),
        (b"\xff\xfe\x00a", "it is not text in UTF-8"),
        (None, "no such file"),
    ],
)
def test_class_names_that_cannot_be_used_are_one_line(
    tmp_path: Path, content: bytes | None, why: str
) -> None:
    names = tmp_path / "labels.txt"
    if content is not None:
        names.write_bytes(content)
    with pytest.raises(InputError) as caught:
        parsed(classes=names)
    assert str(caught.value).startswith(f"cannot read the classes in {names}: {why}")
