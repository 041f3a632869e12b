"""Several boards in one command: side by side, each alone, and one that fails leaves the others."""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path

import pytest

from edgevit.bench import several
from edgevit.progress import Quiet
from tests.bench.test_measure import QUICK, add_board, bench, run, tree  # noqa: F401

pytestmark = pytest.mark.slow


def test_a_board_that_fails_leaves_the_others(run: Path) -> None:  # noqa: F811
    result = bench(run, "--board", "host", "--board", "nowhere", "--json", *QUICK)
    (record,) = json.loads(result.stdout)
    assert record["how"] == "host CPU"
    assert "cannot reach board 'nowhere'" in str(result.exception)


def test_one_board_is_measured_by_one_at_a_time() -> None:
    inside, most, progress = 0, 0, Quiet()

    def measure() -> None:
        nonlocal inside, most
        with several.alone_on("ssh://desk", progress):
            inside += 1
            most = max(most, inside)
            time.sleep(0.1)
            inside -= 1

    threads = [threading.Thread(target=measure) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_different_boards_are_measured_side_by_side() -> None:
    with several.alone_on("ssh://one", Quiet()), several.alone_on("ssh://two", Quiet()):
        pass


def test_a_cluster_measures_where_the_board_is(run: Path) -> None:  # noqa: F811
    distributed = pytest.importorskip("distributed")
    add_board("desk", address="host", python=sys.executable)
    workers = {
        "far": {"cls": distributed.Nanny, "options": {"nthreads": 1}},
        "near": {"cls": distributed.Nanny, "options": {"nthreads": 1, "resources": {"board:desk": 1}}},
    }
    scheduler = {"cls": distributed.Scheduler, "options": {"dashboard": False, "port": 0}}
    with distributed.SpecCluster(scheduler=scheduler, workers=workers) as cluster:
        arguments = ("--board", "desk", "--json", "--scheduler", cluster.scheduler_address, *QUICK)
        result = bench(run, *arguments)
    assert result.exit_code == 0, result.exception
    (record,) = json.loads(result.stdout)
    assert record["how"] == "host CPU"
