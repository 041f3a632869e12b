"""A file is whole or absent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgevit.errors import InputError
from edgevit.files import atomic_path, read_input, refuse_to_overwrite, replace_folder, write_atomically


def test_write_replaces_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_atomically(path, "old")
    write_atomically(path, "new")
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_failed_write_keeps_the_old_content_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    write_atomically(path, b"old")
    with pytest.raises(RuntimeError), atomic_path(path) as staging:
        staging.write_bytes(b"half of the n")
        raise RuntimeError
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_replacing_a_folder_leaves_only_the_new_one(tmp_path: Path) -> None:
    for name in ("staging", "final"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "who").write_text(name)
    replace_folder(tmp_path / "staging", tmp_path / "final")
    assert (tmp_path / "final" / "who").read_text() == "staging"
    assert [p.name for p in tmp_path.iterdir()] == ["final"]


def test_a_pipe_a_device_and_a_folder_are_no_input(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, why in (
        (tmp_path / "pipe", "it is not a regular file"),
        (Path("/dev/zero"), "it is not a regular file"),
        (tmp_path, "it is a folder"),
        (tmp_path / "absent", "no such file"),
        (tmp_path / ("a" * 300), "file name too long"),
    ):
        with pytest.raises(InputError, match=why):
            read_input(path, "cannot read it")


def test_an_input_larger_than_any_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "huge.toml"
    with path.open("wb") as file:
        file.truncate(65 * 2**20)
    with pytest.raises(InputError, match="larger than 64 MiB"):
        read_input(path, "cannot read it")


def test_a_result_never_replaces_an_input_by_any_name(tmp_path: Path) -> None:
    kept = tmp_path / "kept.json"
    kept.write_text("{}", encoding="utf-8")
    (tmp_path / "link.json").symlink_to(kept)
    for out in (kept, tmp_path / "link.json", tmp_path / "." / "kept.json"):
        with pytest.raises(InputError, match="would be lost"):
            refuse_to_overwrite(out, [kept])
    refuse_to_overwrite(tmp_path / "new.json", [kept, tmp_path / "absent"])
