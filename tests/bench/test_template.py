"""The template of a board profile: valid as written, complete, never over a file that is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgevit.bench.template import template, write_template
from edgevit.errors import InputError
from edgevit.targets.profiles import Board, Clock, Npu, read_toml

BACKENDS = ["litert", "onnxruntime", "rknn"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_new_profile_is_valid_as_written(tmp_path: Path, backend: str) -> None:
    board = read_toml(write_template("my-board", backend, tmp_path), Board)
    assert (board.id, board.backend) == ("my-board", backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_new_profile_is_valid_with_every_comment_taken_away(tmp_path: Path, backend: str) -> None:
    lines = template("all", backend).splitlines()
    keys = [line.removeprefix("# ") for line in lines if " = " in line or line.startswith(("[", "# ["))]
    text = "\n".join(line for line in keys if line.startswith("[") or line.split(" = ")[0].isidentifier())
    (tmp_path / "all.toml").write_text(in_toml_order(text))
    board = read_toml(tmp_path / "all.toml", Board)
    assert board.clocks["cpu"].pin == 1_800_000


def in_toml_order(text: str) -> str:
    """Top-level keys before the first table, as TOML wants them."""
    tables: dict[str, list[str]] = {"": []}
    name = ""
    for line in text.splitlines():
        if line.startswith("["):
            name = line
        elif line.split(" = ")[0] in Board.model_fields:
            tables[""].append(line)
            continue
        tables.setdefault(name, []).append(line)
    return "\n".join(line for lines in tables.values() for line in lines)


def test_a_new_profile_names_every_key_there_is() -> None:
    text = template("x", "rknn")
    keys = {*Board.model_fields, *Npu.model_fields, *Clock.model_fields} - {"id"}
    assert [key for key in sorted(keys) if key not in text] == []


def test_a_file_that_is_there_is_kept(tmp_path: Path) -> None:
    path = write_template("mine", "litert", tmp_path)
    path.write_text("mine")
    with pytest.raises(InputError) as caught:
        write_template("mine", "litert", tmp_path)
    assert str(caught.value) == (
        f"cannot write {path}: the file is there already. Choose another name or edit the file."
    )
    assert path.read_text() == "mine"


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a b"])
def test_a_name_that_is_no_file_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="^cannot name a board "):
        write_template(name, "litert", tmp_path)
    assert list(tmp_path.iterdir()) == []
