from __future__ import annotations

from pathlib import Path

from edgevit.boards.profiles import load_recipe
from edgevit.conversion import sources
from edgevit.request.job import Job


def test_a_python_file_s_neighbours_are_part_of_its_identity(tmp_path: Path) -> None:
    (tmp_path / "zoo.py").write_text("from parts import build\n")
    (tmp_path / "parts.py").write_text("build = 1\n")
    (tmp_path / "notes.txt").write_text("one\n")
    recipe = load_recipe("vendor-default")
    job = Job(model=f"{tmp_path / 'zoo.py'}:build", out=tmp_path / "out", targets=(), recipe=recipe)
    before = sources.identity(job)
    assert list(before["files"]) == ["parts.py", "zoo.py"]
    (tmp_path / "notes.txt").write_text("two\n")
    assert sources.identity(job) == before
    (tmp_path / "parts.py").write_text("build = 2\n")
    assert sources.identity(job) != before
