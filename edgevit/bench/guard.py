"""Runs on the board: keeps one measurement there tidy, whatever ends it. Python 3.7, standard library.

Two processes. The front is what ssh or adb started: it passes on what it is told, and says something every second,
so that a broken connection is an error. The guard, in a session of its own, makes the work folder, starts the
runner when the folder `go` appears in it, and puts the clocks back when the runner has ended. When the work
folder is removed, the front is gone, or time is up, it ends the runner, puts the clocks back and removes the
folder. If the guard itself is killed, the front does so.

Arguments: JSON {"base": folder or null, "limit_s": seconds, "pulses": whether the input is kept alive}.
Says JSON lines: {"hello"} or {"refused"}, the runner's own, {"ended"}.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time

SILENCE_S = 20.0


def main() -> None:
    """Start the guard, be the front."""
    asked = json.loads(sys.argv[1])
    base = asked["base"] or tempfile.gettempdir()
    work = os.path.join(base, "edgevit-" + os.urandom(6).hex())
    told, tell = os.pipe()
    alive, hold = os.pipe()
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, leave)
    child = os.fork()
    if child == 0:
        os.setsid()
        os.close(told)
        os.close(hold)
        nothing = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(nothing, standard)
        try:
            guard(work, tell, alive, time.monotonic() + asked["limit_s"])
        finally:
            os._exit(0)
    os.close(tell)
    os.close(alive)
    try:
        front(child, told, asked["pulses"])
    except OSError:
        pass  # the reader is gone
    finally:
        for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        os.close(hold)
        if not gone(child, 60):
            os.kill(child, signal.SIGKILL)
        tidy(work)
        os._exit(0)


def leave(number: int, frame: object) -> None:
    """A signal ends the front; what follows puts things right."""
    raise SystemExit(0)


def front(child: int, told: int, pulses: bool) -> None:
    """Pass lines on until the guard or whoever listens is gone."""
    heard = ticked = time.monotonic()
    whole = True
    while True:
        ready = select.select([told, 0] if pulses else [told], [], [], 1.0)[0]
        now = time.monotonic()
        if told in ready:
            data = os.read(told, 65536)
            if not data:
                return
            whole = data.endswith(b"\n")
            while data:
                data = data[os.write(1, data) :]
        if 0 in ready:
            if not os.read(0, 4096):
                return
            heard = now
        if pulses and now - heard > SILENCE_S:
            return
        if whole and now - ticked >= 1.0:
            ticked = now
            os.write(1, b'{"tick": 1}\n')
            if os.waitpid(child, os.WNOHANG)[0]:
                return


def gone(child: int, limit_s: float) -> bool:
    """Wait for a process to end."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        try:
            if os.waitpid(child, os.WNOHANG)[0]:
                return True
        except ChildProcessError:  # someone else's child: the guard's runner, when the guard was killed
            try:
                os.kill(child, 0)
            except OSError:
                return True
        time.sleep(0.02)
    return False


def guard(work: str, tell: int, alive: int, limit: float) -> None:
    """Start the runner when told to, end it when there is a reason to; leave nothing."""

    def say(**words: object) -> None:
        try:
            os.write(tell, json.dumps(words).encode() + b"\n")
        except OSError:
            pass  # the front is gone, which ends the loop below

    runner = None
    try:
        try:
            os.mkdir(work, 0o700)
        except OSError as error:
            say(refused=error.strerror, folder=os.path.dirname(work))
            return
        held = os.open(os.path.join(work, "lock"), os.O_WRONLY | os.O_CREAT, 0o600)
        fcntl.flock(held, fcntl.LOCK_EX)
        others = sweep(os.path.dirname(work), work)
        python = ".".join(str(part) for part in sys.version_info[:3])
        say(hello=work, free=shutil.disk_usage(work).free, python=python, others=others)
        ended = False
        while time.monotonic() < limit and os.path.isdir(work) and not select.select([alive], [], [], 0.1)[0]:
            if runner is None and os.path.isdir(os.path.join(work, "go")):
                runner = start(work, tell)
            if runner is not None and not ended and runner.poll() is not None:
                ended = True
                say(ended=runner.returncode, log=last_lines(work), not_restored=restore(work))
    finally:
        tidy(work)


def sweep(base: str, work: str) -> int:
    """Remove what a power cut left of measurements; return how many others are under way."""
    others = 0
    for name in os.listdir(base):
        path = os.path.join(base, name)
        if not name.startswith("edgevit-") or path == work:
            continue
        try:
            state = os.lstat(path)
            # Another user's could make this one write to any file.
            if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.getuid() or state.st_mode & 0o022:
                continue
            lock = os.open(os.path.join(path, "lock"), os.O_WRONLY)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            tidy(path)
        except OSError:
            others += 1
        os.close(lock)
    return others


def start(work: str, tell: int) -> subprocess.Popen[bytes]:
    """The runner, in a session of its own; its number is written down for whoever has to end it."""
    os.close(os.open(os.path.join(work, "log.txt"), os.O_WRONLY | os.O_CREAT, 0o600))
    with open(os.path.join(work, "log.txt"), "ab") as log:
        runner = subprocess.Popen(
            [sys.executable, os.path.join(work, "on_board.py"), os.path.join(work, "request.json")],
            stdin=subprocess.DEVNULL,
            stdout=tell,
            stderr=log,
            cwd=work,
            start_new_session=True,
        )
    with open(os.path.join(work, "pid"), "w") as file:
        file.write(str(runner.pid))
    return runner


def tidy(work: str) -> None:
    """End the runner, put the clocks back, remove the folder: in this order, or the runner could undo it."""
    try:
        pid = int(text(os.path.join(work, "pid")))
        if work in text(f"/proc/{pid}/cmdline"):  # after a power cut it is another program's
            os.killpg(pid, signal.SIGKILL)
            gone(pid, 5)
    except (OSError, ValueError):
        pass
    restore(work)
    for _ in range(50):  # a copy may still be arriving
        shutil.rmtree(work, ignore_errors=True)
        if not os.path.isdir(work):
            return
        time.sleep(0.1)


def restore(work: str) -> list[str]:
    """Write back what the runner noted before it changed anything; return the paths that refused."""
    note = os.path.join(work, "restore.json")
    try:
        with open(note) as file:
            saved = json.load(file)
    except (OSError, ValueError):
        return []
    failed = [path for path, value in saved if value != text(path) and not put(path, value)]
    if not failed:
        os.unlink(note)
    return failed


def text(path: str) -> str:
    """What a file of the system says."""
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return ""


def put(path: str, value: str) -> bool:
    """Write a value to a file of the system; through sudo where this user may not."""
    try:
        file = os.open(path, os.O_WRONLY | os.O_TRUNC)  # must exist
        try:
            os.write(file, value.encode() + b"\n")
        finally:
            os.close(file)
        return True
    except PermissionError:
        command = ["sudo", "-n", "tee", path]
    except OSError:
        return False
    try:
        done = subprocess.run(
            command, input=value.encode(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
    except OSError:
        return False
    return done.returncode == 0


def last_lines(work: str) -> str:
    """The end of what the runner wrote to its errors."""
    try:
        with open(os.path.join(work, "log.txt"), "rb") as file:
            file.seek(max(0, os.path.getsize(file.name) - 1500))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


if __name__ == "__main__":
    main()
