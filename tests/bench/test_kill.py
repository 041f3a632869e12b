"""Whatever is killed, whenever: clocks are back, and the board has no process and no file of ours."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import platformdirs
import psutil
import pytest

from tests.bench.made_run import CLASSES, SIZE, Tree, make_run
from tests.bench.npu_library import compiled, model, needs_compiler
from tests.bench.ssh_server import Server, needs_sshd, ssh_server

pytestmark = [pytest.mark.ssh, pytest.mark.slow, needs_sshd, needs_compiler]
TRIES, SEED = 20, 10
PATIENCE_S = 60.0


@dataclass
class Bench:
    """One `edgevit bench` with pinned clocks under way."""

    server: Server
    work: Path
    tree: Tree
    edgevit: subprocess.Popen[bytes]

    def on_board(self) -> list[psutil.Process]:
        """Processes there that name the work folder: front, guard, runner, copies under way."""
        return [each for each in psutil.process_iter() if str(self.work) in line_of(each) and not local(each)]

    def runner(self) -> list[psutil.Process]:
        return [each for each in self.on_board() if "on_board.py" in line_of(each)]

    def guards(self) -> list[psutil.Process]:
        """The front, which sshd's shell became, then the guard, in a session of its own."""
        return [each for each in self.on_board() if "b64decode" in line_of(each)]

    def clients(self) -> list[psutil.Process]:
        port = str(self.server.port)
        return [
            each
            for each in psutil.process_iter(["name"])
            if each.info["name"] == "ssh" and port in line_of(each)
        ]


def line_of(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def local(process: psutil.Process) -> bool:
    """Whether it is the ssh client, whose arguments have everything in them too."""
    with suppress(psutil.Error):
        return process.name() in ("ssh", "sshd") or "tied.py" in line_of(process)
    return True


def kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


WAYS: dict[str, Callable[[Bench], None]] = {
    "connection cut": lambda bench: bench.server.cut(),
    "ssh clients killed": lambda bench: kill(bench.clients()),
    "edgevit killed": lambda bench: bench.edgevit.kill(),
    "edgevit interrupted": lambda bench: bench.edgevit.send_signal(signal.SIGINT),
    "edgevit terminated": lambda bench: bench.edgevit.terminate(),
    "runner killed": lambda bench: kill(bench.runner()),
    "front killed": lambda bench: kill(bench.guards()[:1]),
    "guard killed": lambda bench: kill(bench.guards()[1:]),
}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    compiled(tmp_path / "lib")
    with ssh_server(tmp_path / "sshd", monkeypatch) as made:
        made.accept()
        yield made


def start(server: Server, run: Path, work: Path) -> subprocess.Popen[bytes]:
    path = Path(platformdirs.user_config_dir("edgevit")) / "boards.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f'[desk]\naddress = "{server.address}"\npython = "{sys.executable}"\nwork_folder = "{work}"\n'
        f'npu_library = "{work.parent / "lib" / "librknnrt.so"}"\n'
    )
    command = [sys.executable, "-m", "edgevit", "bench", str(run), "--board", "desk", "--target", "npu"]
    options = ["--pin-clocks", "--seconds", "2.5", "--runs", "20"]
    return subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def wait_for(condition: Callable[[], bool], limit_s: float = PATIENCE_S) -> bool:
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return condition()


def test_nothing_is_left_whatever_is_killed_whenever(server: Server, tmp_path: Path) -> None:
    chance = random.Random(SEED)
    tree = Tree(tmp_path / "sys")
    tree.make()
    run = make_run(tmp_path / "run", tree)
    model(run / "m-npu-int8.rknn", (SIZE, SIZE, 3), CLASSES)
    work = tmp_path / "work"
    work.mkdir()
    pinned = 0
    for number in range(TRIES):
        way = list(WAYS)[number % len(WAYS)]
        # From the guard's first sign of life to past the end of what is timed.
        early = chance.random() < 0.3
        delay_s = chance.uniform(0, 0.5) if early else chance.uniform(0, 3.2)
        bench = Bench(server, work, tree, start(server, run, work))
        begun: Callable[[], bool] = (
            (lambda: bool(list(work.iterdir()))) if early else (lambda: not tree.floats())
        )
        wait_for(lambda ready=begun, edgevit=bench.edgevit: ready() or edgevit.poll() is not None)  # type: ignore[misc]
        time.sleep(delay_s)
        pinned += not tree.floats()
        WAYS[way](bench)
        what = f"try {number}: {way} after {delay_s:.2f} s, {'early' if early else 'pinned'}"
        assert wait_for(lambda edgevit=bench.edgevit: edgevit.poll() is not None), f"{what}: edgevit hangs"  # type: ignore[misc]
        assert wait_for(lambda: not list(work.iterdir())), f"{what}: left {list(work.rglob('*'))}"
        assert wait_for(tree.floats), f"{what}: left the clocks at {tree.state()}"
        assert wait_for(lambda b=bench: not b.on_board()), f"{what}: left {bench.on_board()}"  # type: ignore[misc]
        assert wait_for(lambda: not server.connections()), f"{what}: left {server.connections()}"
    assert pinned > TRIES / 3, "most tries must find the clocks pinned"


def test_guard_outlives_a_hang_up(tmp_path: Path) -> None:
    """What a vanished adb connection does: SIGHUP to the front."""
    from edgevit.bench.session import launcher

    work = tmp_path / "work"
    work.mkdir()
    asked = f'{{"base": "{work}", "limit_s": 60, "pulses": false}}'
    front = subprocess.Popen(
        [sys.executable, "-c", launcher(), asked], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    assert front.stdout is not None
    assert b"hello" in front.stdout.readline()
    os.kill(front.pid, signal.SIGHUP)
    assert wait_for(lambda: not list(work.iterdir()), 10)
    front.wait(10)


def test_a_silent_connection_ends_the_session_on_the_board(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgevit.bench import session

    source = (session.FOLDER / "guard.py").read_text().replace("SILENCE_S = 20.0", "SILENCE_S = 0.5")
    work = tmp_path / "work"
    work.mkdir()
    asked = f'{{"base": "{work}", "limit_s": 60, "pulses": true}}'
    front = subprocess.Popen(
        [sys.executable, "-c", source, asked], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert front.stdout is not None
    assert b"hello" in front.stdout.readline()
    assert wait_for(lambda: not list(work.iterdir()), 10)
    front.wait(10)
