"""Every backend. Nothing else compares a backend's name."""

from __future__ import annotations

from typing import cast

from edgevit.backends.litert import backend as litert
from edgevit.backends.onnxruntime import backend as onnxruntime
from edgevit.backends.protocol import Backend
from edgevit.backends.rknn import backend as rknn
from edgevit.backends.trials import Quantizers

BACKENDS: dict[str, Backend] = {
    "litert": cast(Backend, litert),
    "onnxruntime": cast(Backend, onnxruntime),
    "rknn": cast(Backend, rknn),
}

# Backends that give a simulator of many plans, by which a plan can be searched for.
SIMULATIONS = {"rknn": rknn.simulations}

# Backends whose vendor makes a float file of the exported program first: every artefact and trial starts there.
LOWERINGS = {"litert": litert.lower}

# Backends that quantize in several ways: the plan's key that names one, what there is, and how to measure it.
CANDIDATES: dict[str, Quantizers] = {
    "litert": Quantizers("litert_recipe", ("cpu", "npu"), litert.candidates, litert.measure),
    "onnxruntime": Quantizers("onnx_recipe", ("cpu",), onnxruntime.candidates, onnxruntime.measure),
}
