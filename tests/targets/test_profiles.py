"""Every shipped profile is valid; every wrong one says which key and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgevit.errors import InputError
from edgevit.targets.profiles import load_board, load_recipe, shipped

BOARD = 'name = "X"\nbackend = "rknn"\nsource = "me"\n'


@pytest.mark.parametrize("name", shipped("boards"))
def test_shipped_board_is_valid(name: str) -> None:
    board = load_board(name)
    assert board.id == name
    assert board.precisions
    assert {"float", "int8"} - set(board.precisions) <= set(board.refuse), "a refusal needs its reason"
    assert (board.npu is not None) == (board.backend == "rknn")


@pytest.mark.parametrize("name", shipped("calibration"))
def test_shipped_recipe_is_valid(name: str) -> None:
    assert load_recipe(name).id == name


def test_every_platform_of_the_toolkit_has_a_profile() -> None:
    rk = ["rk3588", "rk3576", "rk3566", "rk3568", "rk3562", "rk2118"]
    rv = ["rv1103", "rv1103b", "rv1106", "rv1106b", "rv1126b"]
    others = ["onnx", "tflite", "raspberrypi4", "raspberrypi5", "android-arm64", "cpu-rk3588", "cpu-rk3566"]
    assert sorted(rk + rv + others) == shipped("boards")


def test_unknown_board_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(InputError) as caught:
        load_board("rk3589")
    assert str(caught.value).startswith(
        "unknown target 'rk3589': no shipped file has that name. Did you mean rk3588? All: android-arm64, "
    )


def test_users_own_board_is_read_by_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(BOARD + '[npu]\ntarget = "rk3588"\n')
    assert load_board(str(path)).npu.target == "rk3588"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOARD + "colour = 1\n", "unknown key colour. Remove it."),
        (
            BOARD + '[npu]\ntarget = "x"\nmax_conv_strid = 7\n',
            "unknown key npu.max_conv_strid. Rename it to max_conv_stride.",
        ),
        ('name = "X"\nsource = "me"\n', "backend: field required. Correct the value."),
        ("name = ", "Invalid value (at end of document). Correct the file."),
    ],
)
def test_invalid_board_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        load_board(str(path))
    assert str(caught.value) == f"{path} is not a valid board: {message}"


def test_missing_board_file_is_one_line() -> None:
    with pytest.raises(InputError) as caught:
        load_board("nowhere/mine.toml")
    assert str(caught.value) == "cannot read target nowhere/mine.toml: no such file. Check the path."


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("precisions = []", "precisions"),
        ("x = " + "[" * 100_000 + "]" * 100_000, "nested too deeply"),
        ("x = " + "9" * 5000, "integer string conversion"),
        ('[npu]\ntarget = "x"\ntoken_alignment = 0', "npu.token_alignment"),
        ('[npu]\ntarget = "x"\ncores = -1', "npu.cores"),
    ],
)
def test_extreme_values_are_one_line(tmp_path: Path, line: str, why: str) -> None:
    path = tmp_path / "x.toml"
    path.write_text(BOARD + line, encoding="utf-8")
    with pytest.raises(InputError, match=why):
        load_board(str(path))


def test_a_name_too_long_for_files_made_from_it_is_refused(tmp_path: Path) -> None:
    path = tmp_path / ("a" * 200 + ".toml")
    path.write_text(BOARD, encoding="utf-8")
    with pytest.raises(InputError, match="more than 100 bytes"):
        load_board(str(path))


@pytest.mark.parametrize("line", ["seed = -1", f"seed = {2**70}", 'conditioning = "yes"'])
def test_a_recipe_takes_no_value_that_fails_later(tmp_path: Path, line: str) -> None:
    path = tmp_path / "r.toml"
    path.write_text(f'name = "X"\nsource = "me"\ncalibration_images = 8\n{line}\n', encoding="utf-8")
    with pytest.raises(InputError, match="not a valid recipe"):
        load_recipe(str(path))
