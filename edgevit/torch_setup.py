"""Import this before timm or torchvision.

A CUDA build of torchvision beside a CPU build of torch can't load its compiled operators, and
`import torchvision` then dies with "operator torchvision::nms does not exist". Classification needs none
of them, so naming their schemas is enough. A healthy installation is left alone.
"""

from __future__ import annotations

import importlib
import sys

from torch import library

SCHEMAS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


def import_torchvision() -> None:
    """Import torchvision, defining the operators it can't load. Raises RuntimeError if it fails otherwise."""
    try:
        importlib.import_module("torchvision")
    except ModuleNotFoundError:
        return
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        for name, schema in SCHEMAS.items():
            library.define(f"torchvision::{name}", schema)
        importlib.import_module("torchvision")


import_torchvision()
