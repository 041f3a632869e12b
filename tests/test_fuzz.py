"""Whatever a file from outside holds, reading it ends in a value or in one of edgevit's own errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgevit.errors import EdgevitError
from edgevit.images import read_image_set
from edgevit.images.labels import read_labels
from edgevit.progress import Quiet
from edgevit.quantize.plan import read_plan
from edgevit.targets.profiles import load_board, load_recipe, shipped
from edgevit.targets.resources import folder

PLAN = 'precision = "int8"\nsixteen_bit = ["embed"]\n[ranges]\nembed = [-1.0, 1.0]\n'
CSV = "path,label\na.png,0\nb.png,1\n"


def images(path: Path) -> object:
    return read_image_set(path, num_classes=2, labelled=True, limit=None, seed=0, progress=Quiet())


def valid(name: str) -> list[str]:
    return [(folder(name) / f"{each}.toml").read_text(encoding="utf-8") for each in shipped(name)[:4]]


READERS: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "board.toml": (lambda path: load_board(str(path)), valid("boards")),
    "recipe.toml": (lambda path: load_recipe(str(path)), valid("calibration")),
    "plan.toml": (read_plan, [PLAN]),
    "images.csv": (images, [CSV]),
    "labels.txt": (lambda path: read_labels(str(path)), ["cat\ndog\n"]),
}

# What a TOML value may become: wrong types, extremes, nesting.
odd = st.recursive(
    st.sampled_from(["nan", "inf", "-1", "0", "1e400", '""', '"a"', "true", "9" * 5000, "1979-05-27"]),
    lambda inner: st.lists(inner, max_size=3).map(lambda items: "[" + ", ".join(items) + "]"),
    max_leaves=4,
)


@st.composite
def mutated(draw: st.DrawFn, texts: list[str]) -> bytes:
    """A valid file with one value replaced, a line lost or doubled, or a piece of it overwritten."""
    lines = draw(st.sampled_from(texts)).splitlines()
    at = draw(st.integers(0, len(lines) - 1))
    kind = draw(st.sampled_from(["value", "lose", "double", "bytes", "deep"]))
    if kind == "value" and "=" in lines[at]:
        lines[at] = lines[at].partition("=")[0] + "= " + draw(odd)
    elif kind == "lose":
        del lines[at]
    elif kind == "double":
        lines.insert(at, lines[at])
    elif kind == "deep":
        lines.insert(at, "x = " + "[" * 3000 + "]" * 3000)
    content = "\n".join(lines).encode()
    if kind == "bytes":
        start = draw(st.integers(0, max(0, len(content) - 1)))
        content = content[:start] + draw(st.binary(max_size=12)) + content[start + draw(st.integers(0, 8)) :]
    return content


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_only_edgevits_own_errors_get_out(name: str, data: Any, tmp_path: Path) -> None:
    read, texts = READERS[name]
    path = tmp_path / name
    path.write_bytes(data.draw(st.one_of(st.binary(max_size=200), mutated(texts))))
    with suppress(EdgevitError):
        read(path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.lists(st.text(max_size=12), max_size=3), max_size=5),
    header=st.lists(st.sampled_from(["path", "label", "class", "", "PATH"]), max_size=3),
)
def test_no_csv_gets_more_out_than_an_error(rows: list[list[str]], header: list[str], tmp_path: Path) -> None:
    path = tmp_path / "images.csv"
    text = "\n".join(",".join(row) for row in [header, *rows])
    path.write_bytes(text.encode(errors="surrogatepass"))
    with suppress(EdgevitError):
        images(path)


def test_the_fuzzed_files_are_valid_to_begin_with(tmp_path: Path) -> None:
    for name, (read, texts) in READERS.items():
        if name != "images.csv":
            path = tmp_path / name
            path.write_text(texts[0], encoding="utf-8")
            assert read(path), json.dumps(name)
