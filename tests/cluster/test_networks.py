"""A cluster of machines: each worker has a network of its own, and reaches the scheduler through a cable."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edgevit.cluster.fitness import needs_of
from edgevit.cluster.machines import Machines
from edgevit.cluster.tasks import Task
from edgevit.progress import Quiet
from edgevit.targets.profiles import load_board
from tests.cluster import work
from tests.cluster.test_processes import doubles, run

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("networks")]
distributed = pytest.importorskip("distributed")

ROOT = Path(__file__).resolve().parents[2]
MACHINES = ("one", "two")
# A machine that falls silent is given up after five minutes; here after seconds.
IMPATIENT = {
    "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "6 s",
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "12 s",
}


@dataclass
class Network:
    """Machines by name: their addresses and worker processes; the client, and how to cut a machine off."""

    client: Any
    addresses: dict[str, str]
    workers: dict[str, subprocess.Popen[bytes]]

    def cut_off(self, name: str) -> None:
        """Pull a machine's cable."""
        ip("link", "set", cable(name), "down")


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def cable(name: str) -> str:
    return f"ev{os.getpid() % 100000}{name}"


@contextmanager
def machine(name: str, number: int) -> Iterator[tuple[str, str, str]]:
    """A network namespace with a cable to this one: its name, its address, this end's address."""
    space, near, far = f"edgevit-{os.getpid()}-{name}", f"10.213.{number}.1", f"10.213.{number}.2"
    try:
        ip("netns", "add", space)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("making networks needs iproute2 and the rights of root")
    try:
        ip("link", "add", cable(name), "type", "veth", "peer", "name", "net0", "netns", space)
        ip("addr", "add", f"{near}/24", "dev", cable(name))
        ip("link", "set", cable(name), "up")
        for command in (("addr", "add", f"{far}/24", "dev", "net0"), ("link", "set", "net0", "up")):
            ip("-n", space, *command)
        ip("-n", space, "link", "set", "lo", "up")
        ip("-n", space, "route", "add", "default", "via", near)
        yield space, far, near
    finally:
        # The space alone keeps it for a while.
        subprocess.run(["ip", "link", "del", cable(name)], capture_output=True)
        ip("netns", "del", space)


@contextmanager
def process(*command: str, log: Path, env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A program that is killed at the end, with whatever it started."""
    with log.open("wb") as file:
        started = subprocess.Popen(
            command, stdout=file, stderr=file, cwd=ROOT, env=os.environ | env, start_new_session=True
        )
    try:
        yield started
    finally:
        if started.poll() is None:
            os.killpg(started.pid, signal.SIGKILL)
        started.wait()


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    """A scheduler here, and two workers in networks of their own."""
    dask, told = (sys.executable, "-m", "dask"), tmp_path / "scheduler.json"
    with ExitStack() as stack:
        places = {name: stack.enter_context(machine(name, number)) for number, name in enumerate(MACHINES, 1)}
        asked = (*dask, "scheduler", "--host", "0.0.0.0", "--port", "0", "--no-dashboard")
        stack.enter_context(
            process(*asked, "--scheduler-file", str(told), log=tmp_path / "scheduler.log", env=IMPATIENT)
        )
        client = stack.enter_context(distributed.Client(scheduler_file=str(told), timeout=60))
        port = client.scheduler.address.rpartition(":")[2]
        workers = {}
        for name, (space, far, near) in places.items():
            inside = ("ip", "netns", "exec", space, *dask, "worker", f"tcp://{near}:{port}")
            options = ("--host", far, "--nthreads", "1", "--no-nanny", "--no-dashboard")
            folder = ("--local-directory", str(tmp_path / name))
            log = tmp_path / f"{name}.log"
            workers[name] = stack.enter_context(process(*inside, *options, *folder, log=log, env=IMPATIENT))
        client.wait_for_workers(len(places), timeout=60)
        yield Network(client, {name: far for name, (_, far, _) in places.items()}, workers)


@contextmanager
def machines_of(network: Network, folder: Path) -> Iterator[Machines]:
    with needs_of([load_board("onnx")], [], folder) as needs:
        yield Machines(network.client, needs, Quiet())


def test_machines_of_different_networks_share_the_tasks(network: Network, tmp_path: Path) -> None:
    with machines_of(network, tmp_path) as workers:
        found = run(workers, [Task(f"{number}", work.where, ()) for number in range(6)])
    assert len({each.value for each in found.values()}) == 2
    hosts = {each.split("//")[1].split(":")[0] for each in workers.known}
    assert hosts == set(network.addresses.values())


def test_a_machine_whose_worker_is_killed_in_its_work_loses_nothing(network: Network, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    with machines_of(network, tmp_path) as workers:
        tasks = [Task("killed", work.end_the_process_once, (marker,)), *doubles(4)]
        found = run(workers, tasks)
    assert found["killed"].value == "made" and found["double 3"].value == 6
    assert len(workers.fit()) == 1


def test_a_machine_that_is_cut_off_in_its_work_loses_nothing(network: Network, tmp_path: Path) -> None:
    marker = tmp_path / "marker"

    def cut_off_whoever_waits() -> None:
        while not marker.exists() or not marker.read_text():
            time.sleep(0.1)
        pid = int(marker.read_text())
        network.cut_off(next(name for name, worker in network.workers.items() if worker.pid == pid))

    with machines_of(network, tmp_path) as workers, ThreadPoolExecutor(1) as pool:
        cut = pool.submit(cut_off_whoever_waits)
        found = run(workers, [Task("cut off", work.wait_once, (marker,)), *doubles(3)])
        cut.result()
    assert found["cut off"].value == "made" and found["double 2"].value == 4
    assert len(workers.fit()) == 1
