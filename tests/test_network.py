"""Nothing that edgevit starts opens a connection, or leaves a trace for one, that the user did not ask for."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

STRACE = shutil.which("strace")


def test_onnx_runtime_leaves_no_telemetry_file(tmp_path: Path) -> None:
    script = "import edgevit, onnxruntime, tempfile; print(tempfile.gettempdir())"
    settings = {**os.environ, "TMPDIR": str(tmp_path)}
    settings.pop("ORT_DISABLE_TELEMETRY", None)
    done = subprocess.run([sys.executable, "-c", script], env=settings, capture_output=True, text=True)
    assert done.stdout == f"{tmp_path}\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.toolchain
@pytest.mark.skipif(STRACE is None, reason="no strace (apt-get install strace)")
def test_a_conversion_and_a_benchmark_connect_to_nobody(tmp_path: Path) -> None:
    """Every process of them, native code too: the only sockets are local ones."""
    assert STRACE is not None
    settings = {**os.environ, "TMPDIR": str(tmp_path), "HF_HUB_OFFLINE": ""}
    settings.pop("ORT_DISABLE_TELEMETRY", None)
    convert = ["convert", "--target", "onnx", "--target", "rk3588", "--precision", "float", "--out", "run"]
    for command in (convert, ["bench", "run", "--board", "host", "--runs", "3", "--seconds", "0"]):
        trace = tmp_path / "trace.txt"
        words = [STRACE, "-f", "-qq", "-e", "trace=connect", "-o", str(trace)]
        done = subprocess.run(
            [*words, sys.executable, "-m", "edgevit", *command],
            cwd=tmp_path,
            env=settings,
            capture_output=True,
            text=True,
        )
        if "PTRACE" in done.stderr:
            pytest.skip("processes may not be traced here")
        assert done.returncode == 0, done.stderr
        assert re.findall(r"connect\(.*AF_INET.*", trace.read_text()) == []
    assert not (tmp_path / ".ses").exists()
