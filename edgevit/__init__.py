"""Take a trained Vision Transformer to a Rockchip NPU or a mobile CPU, with proof."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
# Its telemetry looks up a host on the internet and leaves a file, as soon as it is imported.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

if TYPE_CHECKING:
    from edgevit.api import (
        Board,
        EdgevitError,
        Inspection,
        LoadedModel,
        Prediction,
        Preprocessing,
        Result,
        Run,
        board,
        boards,
        bundle,
        convert,
        finetune,
        inspect,
        load,
        open,
        predict,
        report,
        wrap,
    )

__all__ = [
    "Board",
    "EdgevitError",
    "Inspection",
    "LoadedModel",
    "Prediction",
    "Preprocessing",
    "Result",
    "Run",
    "board",
    "boards",
    "bundle",
    "convert",
    "finetune",
    "inspect",
    "load",
    "open",
    "predict",
    "report",
    "wrap",
]


def __getattr__(name: str) -> Any:
    """The library's names, imported when first used: the command line starts without torch."""
    if name in __all__:
        return getattr(import_module("edgevit.api"), name)
    raise AttributeError(f"module 'edgevit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
