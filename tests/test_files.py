"""A file is whole or absent."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgevit.files import atomic_path, replace_folder, write_atomically


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
