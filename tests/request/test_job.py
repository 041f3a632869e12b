"""Which release of a vendor's converter a request means, by --toolkit or by the board's own profile."""

from __future__ import annotations

import pytest

from edgevit.errors import InputError
from edgevit.request.job import make_job
from edgevit.targets.profiles import load_board


def toolchains(*toolkits: str, targets: tuple[str, ...] = ("rk3588", "rk3566", "onnx")) -> list[str]:
    job = make_job("demo", targets, ("int8",), None, None, toolkits=toolkits)
    return [board.toolchain for board in job.targets]


def test_without_a_wish_it_is_the_usual_release() -> None:
    assert toolchains() == ["rknn", "rknn", "onnxruntime"]


def test_a_release_is_for_every_target_of_its_vendor_and_no_other() -> None:
    assert toolchains("rknn@2.3.2") == ["rknn@2.3.2", "rknn@2.3.2", "onnxruntime"]


def test_a_boards_profile_may_name_its_release() -> None:
    board = load_board("rk3588").model_copy(update={"toolkit": "2.3.2"})
    job = make_job("demo", (board,), ("int8",), None, None)
    assert job.targets[0].toolchain == "rknn@2.3.2"


@pytest.mark.parametrize(
    ("toolkit", "targets", "line"),
    [
        (
            "rknn",
            ("rk3588",),
            "cannot use --toolkit rknn: it names no release. "
            "Write it as rknn@2.3.2, with a target that needs it.",
        ),
        (
            "rknn@2.3.2",
            ("onnx",),
            "cannot use --toolkit rknn@2.3.2: no target is converted with it. "
            "Write it as rknn@2.3.2, with a target that needs it.",
        ),
        (
            "rknn@1.6.0",
            ("rk3588",),
            "unknown release '1.6.0' of rknn: edgevit has no lock for it. Choose from 2.5.0, 2.3.2.",
        ),
        (
            "../x",
            ("rk3588",),
            "unknown toolchain '../x': there is none of that name. Choose from rknn, litert.",
        ),
    ],
)
def test_a_release_that_cannot_be_used_is_one_line(toolkit: str, targets: tuple[str, ...], line: str) -> None:
    with pytest.raises(InputError) as caught:
        toolchains(toolkit, targets=targets)
    assert str(caught.value) == line


def test_a_profile_with_an_unknown_release_is_one_line() -> None:
    board = load_board("rk3588").model_copy(update={"toolkit": "9.9"})
    with pytest.raises(InputError, match="^unknown release '9.9' of rknn"):
        make_job("demo", (board,), ("int8",), None, None)
