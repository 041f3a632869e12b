"""A toolchain whose worker is written by the test."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgevit.toolchains import environment
from edgevit.toolchains.releases import RELEASES, Release

FakeWorker = Callable[[str], None]


def release(
    name: str, title: str = "", check: str = "pass", needed_mb: int = 1, borrows_torch: bool = False
) -> Release:
    """A release that runs on the Python of the tests."""
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    return Release(name, "1.0", title, check, needed_mb, (here,), borrows_torch=borrows_torch)


@pytest.fixture
def fake_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeWorker:
    """Give the body of a worker script that `run_job("fake", ...)` runs: it has `job` and `request`."""
    script = tmp_path / "it's a worker.py"
    monkeypatch.setattr(environment, "python_of", lambda name: Path(sys.executable))
    monkeypatch.setattr(environment, "worker", lambda name: script)
    monkeypatch.setitem(RELEASES, "fake", (release("fake", title="fake-toolkit 1.0"),))

    def write(body: str) -> None:
        prologue = "import json, os, pathlib, sys\njob = pathlib.Path(sys.argv[1])\n"
        request = "request = json.loads((job / 'request.json').read_text())\n"
        script.write_text(prologue + request + body)

    return write
