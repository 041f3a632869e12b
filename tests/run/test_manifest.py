"""A manifest that was edited, damaged or made by someone else is one clear line for every command that reads it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgevit.bench import choose as bench_choice
from edgevit.bench.connect import Place
from edgevit.errors import EdgevitError, InputError
from edgevit.prediction import predict
from edgevit.reporting import html
from edgevit.reporting.build import build
from edgevit.run.manifest import manifest_of, read_manifest, write_manifest
from edgevit.run.reading import read_run
from tests.reporting import runs

JUNK: list[Any] = [
    None,
    7,
    -1,
    2**70,
    1e400,
    float("nan"),
    "x",
    "a" * 300,
    "../../x",
    [],
    {},
    [1],
    {"a": 1},
    True,
]


def complete(folder: Path) -> dict[str, Any]:
    """A manifest with something in every section."""
    manifest = runs.write_run(folder, n=8, lost=1, won=1)
    runs.diagnosed(manifest["results"][0])
    manifest["reductions"] = [{"stage": "heads", "accuracy": None, "details": {"what": "heads gone"}}]
    manifest["command"] = ["convert", "deit"]
    return manifest


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value of a JSON document."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in items:
        yield from paths(each, (*path, key))


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy of a JSON document with one value replaced."""
    copy = json.loads(json.dumps(value))
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = new
    return copy


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_edit_of_a_manifest_gets_more_out_than_an_error(data: Any, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    manifest = complete(folder)
    path = data.draw(st.sampled_from(list(paths(manifest))))
    runs.save(folder, replaced(manifest, path, data.draw(st.sampled_from(JUNK))))
    with suppress(EdgevitError):
        html.render(build([read_run(folder, "cannot report on")]))
    with suppress(EdgevitError):
        predict.choose(folder)
    with suppress(EdgevitError):
        predict.choose(folder, target="torch")
    with suppress(EdgevitError):
        bench_choice.choose(folder, Place("ssh://board"), "rk3588")


@pytest.mark.parametrize(
    ("path", "value", "why"),
    [
        (
            ("results", 0, "artefact"),
            "../../etc/passwd",
            "results.0.artefact: is not the plain name of a file",
        ),
        (("results", 0, "artefact"), 7, "results.0.artefact: input should be a valid string"),
        (("results", 0, "accuracy", "kl"), "low", "results.0.accuracy.kl: input should be a valid number"),
        (("boards", "rk3588"), "a string", "boards.rk3588: input should be an object"),
        (("stages", 0, "inputs"), [], "stages.0.inputs: input should be an object"),
    ],
)
def test_the_wrong_field_is_named(tmp_path: Path, path: tuple[Any, ...], value: Any, why: str) -> None:
    runs.save(tmp_path, replaced(complete(tmp_path), path, value))
    with pytest.raises(InputError) as error:
        read_run(tmp_path)
    assert str(error.value) == (
        f"cannot read {tmp_path}: manifest.json: {why}. Run edgevit convert again with this --out."
    )


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    manifest = manifest_of(complete(tmp_path))
    write_manifest(tmp_path, manifest)
    assert read_manifest(tmp_path / "manifest.json", "cannot read") == manifest


def test_one_target_and_type_twice_is_refused(tmp_path: Path) -> None:
    values = complete(tmp_path)
    values["results"] *= 2
    (tmp_path / "manifest.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match="results: has two results for one target and type"):
        read_manifest(tmp_path / "manifest.json", "cannot report")


def test_a_path_that_is_no_utf_8_is_shown_as_far_as_it_can_be(tmp_path: Path) -> None:
    values = complete(tmp_path)
    values["command"] = ["convert", "--out", "o\udcff"]
    write_manifest(tmp_path, manifest_of(values))
    assert read_manifest(tmp_path / "manifest.json", "cannot report").command == ("convert", "--out", "o?")
