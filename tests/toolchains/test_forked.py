"""A simulation shared by processes gives what one process gives, or says what went wrong."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgevit.toolchains import environment

sys.path.append(str(environment.SHARED))  # as the workers find it: edgevit is not installed beside them
import forked  # noqa: E402


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})


def row(number: int) -> Any:
    return np.array([number, number**2], dtype=np.float32)


@pytest.mark.parametrize("count", [1, 15, 16, 25, 64])
def test_rows_come_in_order_whatever_their_number(count: int, tmp_path: Path) -> None:
    told: list[int] = []
    found = forked.rows_of(count, row, told.append)
    np.testing.assert_array_equal(found, np.stack([row(number) for number in range(count)]))
    assert told[-1] == count
    assert told == sorted(told)
    assert not list(tmp_path.iterdir())


def test_each_process_computes_a_share() -> None:
    found = forked.rows_of(30, lambda _: np.array([os.getpid()]), lambda _: None)
    assert len(set(found[:, 0].tolist())) == 3
    assert os.getpid() not in found


def test_what_went_wrong_in_a_share_is_told(tmp_path: Path) -> None:
    def failing(number: int) -> Any:
        if number == 20:
            raise ValueError("inference gave nothing for image 20")
        return row(number)

    with pytest.raises(forked.ShareFailed, match="inference gave nothing for image 20"):
        forked.rows_of(32, failing, lambda _: None)


def test_a_share_that_the_system_ends_is_told() -> None:
    def killed(number: int) -> Any:
        if number == 20:
            os.kill(os.getpid(), signal.SIGKILL)
        return row(number)

    with pytest.raises(forked.ShareFailed, match="signal 9"):
        forked.rows_of(32, killed, lambda _: None)


def test_where_memory_is_short_one_process_does_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forked, "affordable", lambda: 1)
    found = forked.rows_of(30, lambda _: np.array([os.getpid()]), lambda _: None)
    assert set(found[:, 0].tolist()) == {os.getpid()}
