"""What may be asked for, and every wish that can't be granted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgevit.errors import InputError
from edgevit.request.compression import CompressionRequest, parse_compression


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, CompressionRequest()),
        ({"resolution": "192"}, CompressionRequest(resolution=(192, 192))),
        ({"resolution": "192x224"}, CompressionRequest(resolution=(192, 224))),
        ({"resolution": "auto", "prune_mlp": "auto"}, CompressionRequest(resolution="auto", neurons="auto")),
        ({"prune_heads": "6", "prune_mlp": "0.1"}, CompressionRequest(heads=6, neurons=0.1)),
        ({"prune_heads": ".15", "recover": True}, CompressionRequest(heads=0.15, recover=True)),
        (
            {"prune_heads": "1", "recover": True, "recover_minutes": 2.5},
            CompressionRequest(None, 1, None, True, None, 2.5),
        ),
    ],
)
def test_wishes(options: dict[str, Any], wanted: CompressionRequest) -> None:
    assert parse_compression({**options}) == wanted


def test_other_options_are_left_alone() -> None:
    options = {"prune_heads": "6", "seed": 3}
    parse_compression(options)
    assert options == {"seed": 3}


def test_no_wish_is_nothing_in_the_manifest() -> None:
    assert CompressionRequest().to_json() is None
    assert CompressionRequest(heads=6, recover_images=Path("more"), recover=True).to_json() == {
        "resolution": None,
        "heads": 6,
        "neurons": None,
        "recover": True,
        "recover_images": "more",
        "recover_minutes": 10.0,
    }


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            {"resolution": "big"},
            "cannot change the resolution to 'big': it is not a size in pixels. "
            "Use 192, 192x224 (height x width) or auto.",
        ),
        (
            {"prune_heads": "1.5"},
            "--prune-heads 1.5 is not an amount: it takes a count, a share below 1 or auto. Use 6 or 0.15.",
        ),
        (
            {"prune_mlp": "-3"},
            "--prune-mlp -3 is not an amount: it takes a count, a share below 1 or auto. Use 0.1 or 256.",
        ),
        (
            {"recover": True},
            "cannot recover: nothing was made smaller. "
            "Add --resolution, --prune-heads or --prune-mlp, or leave --recover out.",
        ),
        (
            {"prune_heads": "6", "recover_images": Path("more")},
            "--recover-images without --recover: nothing is recovered. Add --recover.",
        ),
        (
            {"prune_heads": "6", "recover_minutes": 5.0},
            "--recover-minutes without --recover: nothing is recovered. Add --recover.",
        ),
    ],
)
def test_wishes_that_make_no_sense(options: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError) as error:
        parse_compression(options)
    assert str(error.value) == line
