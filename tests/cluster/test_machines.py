"""A Dask cluster of real processes: who can't take work gets none, who is lost is replaced."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgevit.cluster.fitness import Needs, needs_of, why_unfit
from edgevit.cluster.machines import Machines, machines
from edgevit.cluster.tasks import Task
from edgevit.errors import InputError
from edgevit.progress import Quiet
from edgevit.targets.profiles import load_board
from tests.cluster import work
from tests.cluster.test_processes import doubles, run

pytestmark = pytest.mark.slow
distributed = pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    started: Any = distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
    with started, distributed.Client(started) as client:
        yield client


@pytest.fixture
def client(cluster: Any) -> Any:
    cluster.wait_for_workers(2)  # one that a test killed takes a moment to come back
    return cluster


@pytest.fixture
def needs(tmp_path: Path) -> Iterator[Needs]:
    with needs_of([load_board("onnx")], [], tmp_path) as needs:
        yield needs


def test_workers_share_the_tasks(client: Any, needs: Needs) -> None:
    found = run(Machines(client, needs, Quiet()), [Task(f"{number}", work.where, ()) for number in range(6)])
    assert len({each.value for each in found.values()}) == 2


def test_a_poisoned_task_fails_alone(client: Any, needs: Needs) -> None:
    found = run(Machines(client, needs, Quiet()), [Task("bad", work.refuse, ()), *doubles(3)])
    assert isinstance(found["bad"].error, InputError)
    assert found["double 2"].value == 4


def test_a_worker_killed_in_its_work_loses_nothing(client: Any, needs: Needs, tmp_path: Path) -> None:
    found = run(
        Machines(client, needs, Quiet()),
        [Task("killed", work.end_the_process_once, (tmp_path / "marker",)), *doubles(4)],
    )
    assert found["killed"].value == "made"
    assert found["double 3"].value == 6


def test_what_fails_on_one_worker_only_is_done_by_another(client: Any, needs: Needs, tmp_path: Path) -> None:
    progress = Quiet()
    workers = Machines(client, needs, progress)
    found = run(workers, [Task("full", work.fail_in_one_process, (tmp_path / "marker",))])
    assert found["full"].value == "made"
    assert "gets no more work" in progress.warnings[0] and "No space left" in progress.warnings[0]
    assert len(workers.fit()) == 1


def test_a_worker_that_lacks_something_gets_no_work(client: Any, needs: Needs) -> None:
    other = replace(needs, versions={**needs.versions, "torch": "0.1"})
    with pytest.raises(
        InputError, match=r"no worker can take this work: tcp://\S+: it has torch .*, not 0\.1"
    ):
        Machines(client, other, Quiet())


def test_what_a_machine_lacks_is_said(needs: Needs, tmp_path: Path) -> None:
    assert why_unfit(needs) is None
    unseen = replace(needs, files=(str(tmp_path / "weights.safetensors"),))
    assert "can't see" in str(why_unfit(unseen))
    elsewhere = replace(needs, token=str(tmp_path / "absent"))
    assert f"can't see the folder {tmp_path}" in str(why_unfit(elsewhere))
    other = replace(needs, tools=({"onnxruntime": "0.1"},))
    assert "tools are others" in str(why_unfit(other))


def test_a_scheduler_that_is_not_there_is_one_line(needs: Needs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgevit.cluster.machines.CONNECT_S", 1)
    with (
        pytest.raises(InputError, match=r"cannot reach the scheduler tcp://127\.0\.0\.1:1"),
        machines("tcp://127.0.0.1:1", None, needs, Quiet()),
    ):
        pass
