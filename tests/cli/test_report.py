"""`edgevit report` writes what it is asked for, where it is asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgevit.cli import group
from tests.reporting import runs


def test_one_run_gets_its_page_in_its_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs.write_run(tmp_path / "deit")
    assert group.run(["report", str(tmp_path / "deit")]) == 0
    out = capsys.readouterr().out
    assert "deit rk3588 int8: can\u2019t tell, 200 images (vendor simulator) leave the loss" in out
    assert out.endswith(f"report: {tmp_path / 'deit' / 'report.html'}\n")
    assert (tmp_path / "deit" / "report.html").read_text().startswith("<!doctype html>")


def test_formats_share_the_stem(tmp_path: Path) -> None:
    runs.write_run(tmp_path / "deit")
    out = str(tmp_path / "compare.html")
    arguments = ["report", str(tmp_path / "deit"), "--out", out, "--format", "md", "--format", "json"]
    assert group.run(arguments) == 0
    assert json.loads((tmp_path / "compare.json").read_text())["title"] == "deit"
    assert (tmp_path / "compare.md").read_text().startswith("# deit\n")
    assert not (tmp_path / "compare.html").exists()


def test_the_suffix_decides_the_format(tmp_path: Path) -> None:
    runs.write_run(tmp_path / "deit")
    assert group.run(["report", str(tmp_path / "deit"), "--out", str(tmp_path / "a.md")]) == 0
    assert (tmp_path / "a.md").read_text().startswith("# deit\n")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["--out", "a.txt"],
            "error: cannot write a.txt: its suffix '.txt' names no format. "
            "End it in .html, .md or .json, or add --format.\n",
        ),
        (
            ["--out", "a.md", "--format", "html"],
            "error: cannot write a.md: it is named as md, --format says html. Drop one.\n",
        ),
        (
            ["--labels", "names.txt"],
            "error: cannot read class names from names.txt: no such file. Check the path.\n",
        ),
        (
            ["--labels", "imagenet-1k"],
            "error: cannot name the classes: --labels gives 1000 names and the model has 4 classes. "
            "Give the names of this model's classes, in their order.\n",
        ),
    ],
)
def test_impossible_wishes_are_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    line: str,
) -> None:
    runs.write_run(tmp_path / "deit", n=20)
    monkeypatch.chdir(tmp_path)
    assert group.run(["report", "deit", *arguments]) == 1
    assert capsys.readouterr().err == line


def test_labels_name_the_classes(tmp_path: Path) -> None:
    runs.write_run(tmp_path / "deit")
    (tmp_path / "names.txt").write_text("ant\nbee\ncat\ndog\n")
    arguments = ["report", str(tmp_path / "deit"), "--labels", str(tmp_path / "names.txt"), "--format", "md"]
    assert group.run(arguments) == 0
    text = (tmp_path / "deit" / "report.md").read_text()
    assert "class 1" not in text
    assert "| bee |" in text


def test_a_page_opens_in_the_browser_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    runs.write_run(tmp_path / "my run", n=20)
    assert group.run(["report", str(tmp_path / "my run"), "--open"]) == 0
    assert opened == [(tmp_path / "my run" / "report.html").as_uri()]


def test_several_runs_are_written_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        runs.write_run(tmp_path / name, n=20)
    monkeypatch.chdir(tmp_path)
    assert group.run(["report", "a", "b/manifest.json"]) == 0
    assert "2 runs side by side" in Path("report.html").read_text()
