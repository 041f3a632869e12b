"""Libraries that print what no user can act on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Keep the exporter from printing the whole graph, thousands of lines, where it fails.

    torch means to do so only if its log is on, but takes it for on: it tests a function instead of calling it.
    """
    binding: Any = torch._C
    log = binding._jit_onnx_log
    binding._jit_onnx_log = lambda *parts: None
    try:
        yield
    finally:
        binding._jit_onnx_log = log


@contextmanager
def quiet_library() -> Iterator[None]:
    """Keep native code off stderr: onnxsim tells each constant that it folds on its second try."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)
