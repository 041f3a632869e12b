"""`edgevit boards` as people type it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from click.testing import CliRunner

from edgevit.cli.boards import command
from edgevit.targets.profiles import load_board, shipped
from tests.bench.test_probe import Tree, rock5b


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    """A made-up ROCK 5B at any address."""
    made = rock5b(tmp_path)
    made.closed = False

    def close() -> None:
        made.closed = True

    made.close = close
    way = ModuleType("edgevit.bench.connect")
    way.locate = lambda where: SimpleNamespace(python=None)
    way.reach = lambda place: made
    monkeypatch.setitem(sys.modules, "edgevit.bench.connect", way)
    return made


def test_list_shows_every_shipped_profile() -> None:
    answer = CliRunner().invoke(command, ["list"])
    assert answer.exit_code == 0
    for name in shipped("boards"):
        assert f"\n  {name} " in answer.stdout
    assert "  rk3588         rknn         float, int8  Rockchip RK3588\n" in answer.stdout


def test_list_as_json_can_be_read_back() -> None:
    found = json.loads(CliRunner().invoke(command, ["list", "--json"]).stdout)
    assert [board["id"] for board in found] == shipped("boards")
    assert found[0]["source"] == load_board(found[0]["id"]).source


def test_list_checks_a_profile_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    written = CliRunner().invoke(command, ["new", "mine"])
    assert written.stdout == "mine.toml: fill it in, then use --target mine.toml\n"
    assert "  mine           litert" in CliRunner().invoke(command, ["list", "--board", "mine.toml"]).stdout


def test_probe_says_what_the_board_is_and_what_is_missing(board: Tree) -> None:
    answer = CliRunner().invoke(command, ["probe", "ssh://board"])
    assert answer.exit_code == 0, answer.output
    lines = dict(
        line.split(maxsplit=1) for line in answer.stdout.splitlines() if not line.startswith("missing")
    )
    assert lines["board"] == "Radxa ROCK 5B"
    assert lines["NPU"] == "driver 0.9.8, librknnrt 2.3.2"
    assert lines["Python"] == "3.11.2 with rknn-toolkit-lite2 2.5.0, numpy 1.26.4"
    assert lines["profiles"] == "rk3588, onnx, tflite"
    assert (
        "missing    ai-edge-litert: it runs .tflite artefacts. On the board: python3 -m venv" in answer.stdout
    )
    assert board.closed


def test_probe_as_json_holds_the_same(board: Tree) -> None:
    found = json.loads(CliRunner().invoke(command, ["probe", "ssh://board", "--json"]).stdout)
    assert found["facts"]["npu_driver"] == "0.9.8"
    assert found["profiles"][0] == "rk3588"
    assert {"what", "why", "fix"} == set(found["missing"][0])
