"""Whatever happens inside a worker becomes a result or one clear line, and the parent lives on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from edgevit.errors import ToolchainError
from edgevit.progress import Quiet
from edgevit.toolchains.call import run_job
from tests.toolchains.conftest import FakeWorker
from tests.toolchains.processes import alive, wait_until

DONE = "(job / 'result.json').write_text(json.dumps({'ok': {'answer': 42}}))\n"


class Recorder(Quiet):
    """Keeps what was reported."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, int, str]] = []

    def advance(self, done: int, total: int, note: str = "") -> None:
        self.seen.append((done, total, note))


def job(tmp_path: Path, timeout_s: float = 30, **args: object) -> dict[str, object]:
    return run_job("fake", "build", args, tmp_path / "a job; rm -rf 'x'", timeout_s=timeout_s)


def failure(tmp_path: Path, timeout_s: float = 30) -> str:
    with pytest.raises(ToolchainError) as caught:
        job(tmp_path, timeout_s)
    return str(caught.value).replace(str(tmp_path / "a job; rm -rf 'x'"), "JOB")


def test_result_is_returned(tmp_path: Path, fake_worker: FakeWorker) -> None:
    fake_worker(DONE)
    assert job(tmp_path) == {"answer": 42}


def test_arguments_arrive(tmp_path: Path, fake_worker: FakeWorker) -> None:
    fake_worker("(job / 'result.json').write_text(json.dumps({'ok': request}))")
    given = job(tmp_path, path="a 'quoted' \"name\"; $(x)", numbers=[1.5, 2])
    assert (given["call"], given["args"]) == (
        "build",
        {"path": "a 'quoted' \"name\"; $(x)", "numbers": [1.5, 2]},
    )


def test_raised_error_is_one_line(tmp_path: Path, fake_worker: FakeWorker) -> None:
    fake_worker(
        "(job / 'result.json').write_text(json.dumps({'error': 'ValueError', 'message': 'bad\\nshape'}))\n"
    )
    assert failure(tmp_path) == "fake-toolkit 1.0 failed in stage 'starting': bad shape. See JOB/log.txt."


def test_exit_is_named(tmp_path: Path, fake_worker: FakeWorker) -> None:
    fake_worker("(job / 'result.json').write_text(json.dumps({'error': 'SystemExit', 'message': '3'}))")
    assert failure(tmp_path) == "fake-toolkit 1.0 failed in stage 'starting': exited (3). See JOB/log.txt."


def test_abort_names_signal_stage_and_last_words(tmp_path: Path, fake_worker: FakeWorker) -> None:
    fake_worker(
        "(job / 'events.jsonl').write_text(json.dumps({'stage': 'build'}) + '\\n')\n"
        "os.write(2, b'*** buffer overflow detected ***\\n')\nos.abort()\n"
    )
    assert failure(tmp_path) == (
        "fake-toolkit 1.0 failed in stage 'build': killed by SIGABRT; it last said: "
        "*** buffer overflow detected ***. See JOB/log.txt."
    )


def test_workers_own_marks_are_not_the_vendors_last_words(tmp_path: Path, fake_worker: FakeWorker) -> None:
    fake_worker("os.write(1, b'out of registers\\nedgevit: build\\n---\\n')\nos.abort()\n")
    assert "it last said: out of registers. See" in failure(tmp_path)


def test_what_a_future_release_will_refuse_is_not_what_went_wrong(
    tmp_path: Path, fake_worker: FakeWorker
) -> None:
    said = (
        "E bad layer\\nregister() is deprecated and will be an error in a future release\\n"
        "I0000 00:00 port.cc] floating-point round-off errors\\n"
    )
    fake_worker(f"os.write(2, b'{said}')\nos.abort()\n")
    assert "it last said: E bad layer. See" in failure(tmp_path)


def test_vanishing_without_a_result_is_an_error(tmp_path: Path, fake_worker: FakeWorker) -> None:
    fake_worker("os._exit(0)")
    assert failure(tmp_path) == (
        "fake-toolkit 1.0 failed in stage 'starting': ended with exit code 0 and no result. See JOB/log.txt."
    )


def test_half_a_result_is_an_error(tmp_path: Path, fake_worker: FakeWorker) -> None:
    fake_worker("(job / 'result.json').write_text('{\"ok\": ')")
    assert "ended with exit code 0 and no result" in failure(tmp_path)


def test_old_result_is_never_taken_for_a_new_one(tmp_path: Path, fake_worker: FakeWorker) -> None:
    fake_worker(DONE)
    job(tmp_path)
    fake_worker("os.abort()")
    assert "killed by SIGABRT" in failure(tmp_path)


def test_missing_package_means_a_damaged_toolchain(tmp_path: Path, fake_worker: FakeWorker) -> None:
    fake_worker(
        "error = {'error': 'ModuleNotFoundError', 'message': \"No module named 'rknn'\"}\n"
        "(job / 'result.json').write_text(json.dumps(error))\n"
    )
    assert failure(tmp_path) == (
        "cannot use the fake toolchain: it is damaged (No module named 'rknn'). "
        'Run "edgevit toolchain install fake".'
    )


@pytest.mark.slow
def test_hanging_worker_and_its_children_are_killed(tmp_path: Path, fake_worker: FakeWorker) -> None:
    fake_worker(
        "import signal, subprocess, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "(job / 'pids').write_text(f'{os.getpid()} {child.pid}')\ntime.sleep(600)\n"
    )
    assert failure(tmp_path, timeout_s=1.5) == (
        "fake-toolkit 1.0 failed in stage 'starting': no result after 2 s. See JOB/log.txt."
    )
    pids = (tmp_path / "a job; rm -rf 'x'" / "pids").read_text().split()
    wait_until(lambda: not any(alive(int(pid)) for pid in pids))


def test_interrupt_ends_the_worker(tmp_path: Path, fake_worker: FakeWorker) -> None:
    fake_worker("import time\n(job / 'pids').write_text(str(os.getpid()))\ntime.sleep(600)\n")
    threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        job(tmp_path)
    assert not alive(int((tmp_path / "a job; rm -rf 'x'" / "pids").read_text()))


def test_worker_dies_with_a_killed_parent(tmp_path: Path, fake_worker: FakeWorker) -> None:
    fake_worker("import time\n(job / 'pids').write_text(str(os.getpid()))\ntime.sleep(600)\n")
    script = f"""
import pathlib, sys
from edgevit.toolchains import call, environment
environment.python_of = lambda name: pathlib.Path(sys.executable)
environment.title = lambda name: "fake"
environment.borrowed = lambda name: None
environment.worker = lambda name: pathlib.Path({str(tmp_path / "it's a worker.py")!r})
call.run_job("fake", "build", {{}}, pathlib.Path({str(tmp_path / "job")!r}), timeout_s=600)
"""
    parent = subprocess.Popen([sys.executable, "-c", script])
    pids = tmp_path / "job" / "pids"
    wait_until(lambda: pids.exists() and pids.read_text() != "")
    parent.kill()
    parent.wait()
    wait_until(lambda: not alive(int(pids.read_text())))


def test_megabytes_of_noise_and_broken_text_do_no_harm(tmp_path: Path, fake_worker: FakeWorker) -> None:
    fake_worker(
        "sys.stdout.buffer.write(b'\\xff\\xfe\\x00 noise \\n' * 500_000)\n"
        "sys.stderr.buffer.write(b'E RKNN: \\xff broken\\n')\nsys.stdout.flush()\nos.abort()\n"
    )
    assert "killed by SIGABRT" in failure(tmp_path)


def test_progress_and_warnings_are_forwarded(tmp_path: Path, fake_worker: FakeWorker) -> None:
    fake_worker(
        "events = [{'stage': 'simulate'}, {'done': 1, 'total': 2}, {'warning': 'slow'}, {'done': 2, 'total': 2}]\n"
        "text = '\\n'.join(map(json.dumps, events))\n"
        "(job / 'events.jsonl').write_text(text + '\\nnot json\\n[1]\\n')\n" + DONE
    )
    recorder = Recorder()
    run_job("fake", "build", {}, tmp_path / "job", progress=recorder, timeout_s=30)
    assert recorder.seen == [(0, 0, "simulate"), (1, 2, "simulate"), (2, 2, "simulate")]
    assert recorder.warnings == ["slow"]


def test_users_python_path_does_not_reach_the_worker(
    tmp_path: Path, fake_worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    fake_worker("(job / 'result.json').write_text(json.dumps({'ok': {'path': sys.path}}))")
    assert str(tmp_path) not in job(tmp_path)["path"]  # type: ignore[operator]
