"""Options refuse what would silently mean something else: nothing, not a number, out of range."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgevit.cli import group


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--max-drop", "nan"], "'nan' is not a finite number"),
        (["--max-drop", "inf"], "'inf' is not a finite number"),
        (["--search-minutes", "nan"], "'nan' is not a finite number"),
        (["--recover-minutes", "nan"], "'nan' is not a finite number"),
        (["--seed", str(2**200)], "is not in the range"),
        (["--seed", "-1"], "is not in the range"),
        (["--calibration", ""], "it is empty"),
        (["--recipe", " "], "it is empty"),
        (["--target", ""], "it is empty"),
    ],
)
def test_an_option_without_sense_is_a_usage_error(
    arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert group.run(["convert", *arguments]) == 2
    assert line in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--target", "onnx", "--without", "nonsense"], "unknown rewrite 'nonsense'"),
        (["--target", "onnx", "--target", "{copy}"], "two targets are called onnx"),
        (["--target", "onnx", "--plan", "{plan}"], "it says float and int8 is asked for"),
    ],
)
def test_a_request_that_contradicts_itself_is_refused_before_any_work(
    arguments: list[str], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    board, plan = tmp_path / "onnx.toml", tmp_path / "p.toml"
    board.write_text('name = "X"\nbackend = "onnxruntime"\nsource = "me"\n', encoding="utf-8")
    plan.write_text('precision = "float"\n', encoding="utf-8")
    given = [each.format(copy=board, plan=plan) for each in arguments]
    assert group.run(["convert", *given, "--out", str(tmp_path / "run")]) == 1
    assert line in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
