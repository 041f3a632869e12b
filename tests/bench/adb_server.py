"""An adb server of the tests' own, so that nothing of the user's is touched, and devices attached to it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.bench.adb_device import Device
from tests.bench.ports import free_port

TOOLS = ("sh", "cat", "mkdir", "rm", "chmod", "ls", "sleep", "uname", "grep", "tr", "cut", "df", "id", "tail")
STARTS = 5
needs_adb = pytest.mark.skipif(shutil.which("adb") is None, reason="no adb client (apt-get install adb)")


@contextmanager
def adb_server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A server on a free port, its keys and log in `folder`; every `adb` in the block talks to it."""
    home = folder / "home"
    home.mkdir()
    _start(home, monkeypatch)
    try:
        yield
    finally:
        subprocess.run(["adb", "kill-server"], capture_output=True, timeout=30)


def _start(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start it; again on another port where it doesn't, as adb now and then doesn't on a busy machine."""
    for _ in range(STARTS):
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(free_port()))
        own = {
            **os.environ,
            "HOME": str(home),
            "TMPDIR": str(home),
            "ANDROID_ADB_LOG_PATH": str(home / "log"),
        }
        done = subprocess.run(["adb", "start-server"], env=own, capture_output=True, text=True, timeout=60)
        if done.returncode == 0:
            return
    raise AssertionError(f"no adb server after {STARTS} starts; the last one: {done.stderr}")


def attach(device: Device) -> str:
    """Connect a device to the server; return its serial."""
    done = subprocess.run(["adb", "connect", device.serial], capture_output=True, text=True, timeout=30)
    assert "connected to" in done.stdout, done
    return device.serial


def path_without_python(folder: Path) -> dict[str, str]:
    """An environment whose PATH has a shell's usual tools and no Python."""
    folder.mkdir()
    for tool in TOOLS:
        found = shutil.which(tool)
        if found:
            (folder / tool).symlink_to(found)
    return {"PATH": str(folder)}
