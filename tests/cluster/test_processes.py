"""Tasks in processes of this machine: each ends in a value or a reason, whatever happens to the process."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from edgevit.cluster.processes import processes
from edgevit.cluster.tasks import Ended, Here, Task, Workers, spread
from edgevit.errors import InputError
from edgevit.progress import QUIET
from tests.cluster import work


def run(workers: Workers, tasks: Sequence[Task]) -> dict[str, Ended]:
    waiting, found = list(tasks), {}
    spread(
        workers,
        lambda: waiting.pop(0) if waiting else None,
        lambda each: found.update({each.task.name: each}),
    )
    return found


def doubles(count: int) -> list[Task]:
    return [Task(f"double {number}", work.double, (number,)) for number in range(count)]


def test_this_process_runs_one_after_the_other() -> None:
    found = run(Here(QUIET), doubles(3))
    assert [each.value for each in found.values()] == [0, 2, 4]


def test_what_a_task_raises_is_its_answer_and_the_others_go_on() -> None:
    found = run(Here(QUIET), [Task("bad", work.refuse, ()), Task("ours", work.divide, (0,)), *doubles(1)])
    assert isinstance(found["bad"].error, InputError)
    assert "ZeroDivisionError" in str(found["ours"].error)
    assert found["double 0"].value == 0


def test_a_task_is_chosen_by_what_has_ended() -> None:
    seen: list[str] = []
    given: list[int] = []

    def following() -> Task | None:
        given.append(len(seen))
        return Task(f"{len(given)}", work.double, (1,)) if len(given) < 4 else None

    spread(Here(QUIET), following, lambda each: seen.append(each.task.name))
    assert given[:3] == [0, 1, 2]


@pytest.mark.slow
def test_processes_share_the_tasks() -> None:
    with processes(2) as workers:
        found = run(workers, [Task(f"{number}", work.where, ()) for number in range(6)])
    ids = {each.value for each in found.values()}
    assert len(ids) == 2
    assert os.getpid() not in ids


@pytest.mark.slow
def test_a_killed_process_loses_nothing(tmp_path: Path) -> None:
    with processes(2) as workers:
        found = run(workers, [Task("killed", work.end_the_process_once, (tmp_path / "marker",)), *doubles(4)])
    assert found["killed"].value == "made"
    assert [found[f"double {number}"].value for number in range(4)] == [0, 2, 4, 6]


@pytest.mark.slow
def test_a_task_that_ends_its_process_fails_alone() -> None:
    with processes(1) as workers:
        found = run(workers, [Task("poison", work.end_the_process, ()), *doubles(2)])
    assert "its process was ended from outside" in str(found["poison"].error)
    assert found["double 1"].value == 2
    assert found["double 0"].value == 0


@pytest.mark.slow
def test_an_error_travels_whole() -> None:
    with processes(1) as workers:
        (found,) = run(workers, [Task("bad", work.refuse, ())]).values()
    assert isinstance(found.error, InputError)
    assert found.error.fix == "Leave it out"
