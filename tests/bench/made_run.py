"""A run directory small enough to make in a test: a linear model, a few images, clocks in a made-up system tree."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from edgevit.images.preprocessing import Preprocessing

SIZE, CLASSES, IMAGES = 8, 5, 12
GOVERNOR, SPEED = "ondemand", 408000
FAST = 1800000


@dataclass(frozen=True)
class Tree:
    """A made-up /sys: one clock that floats until it is pinned."""

    folder: Path

    def clock(self) -> dict[str, Any]:
        return {
            "governor": str(self.folder / "scaling_governor"),
            "set_frequency": str(self.folder / "scaling_setspeed"),
            "read_frequency": str(self.folder / "scaling_setspeed"),
            "unit": "kHz",
            "pin": FAST,
        }

    def make(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "scaling_governor").write_text(f"{GOVERNOR}\n")
        (self.folder / "scaling_setspeed").write_text(f"{SPEED}\n")
        (self.folder / "temp").write_text("41500\n")

    def state(self) -> tuple[str, str]:
        names = ("scaling_governor", "scaling_setspeed")
        first, second = ((self.folder / name).read_text().strip() for name in names)
        return first, second

    def floats(self) -> bool:
        return self.state() == (GOVERNOR, str(SPEED))


def write_model(path: Path) -> None:
    """Mean colour, then a linear layer: outputs [1, classes] of float32 [1, 3, 8, 8]."""
    weights = np.random.default_rng(1).normal(size=(3, CLASSES)).astype(np.float32)
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, SIZE, SIZE])
    outputs = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, CLASSES])
    graph = helper.make_graph(
        nodes, "linear", [image], [outputs], [numpy_helper.from_array(weights, "weights")]
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))


def make_run(folder: Path, tree: Tree | None = None, cores: int = 1) -> Path:
    """A run with an .onnx and a made-up .rknn, their local outputs and the float reference."""
    folder.mkdir(parents=True)
    preprocessing = Preprocessing((SIZE, SIZE))
    pixels = np.random.default_rng(2).integers(0, 256, (IMAGES, SIZE, SIZE, 3), np.uint8)
    write_model(folder / "m-onnx-int8.onnx")
    session = onnxruntime.InferenceSession(folder / "m-onnx-int8.onnx")
    outputs = np.concatenate(
        [session.run(None, {"image": preprocessing.normalise(p[None])})[0] for p in pixels]
    )
    (folder / "m-npu-int8.rknn").write_bytes(b"RKNN made up")
    arrays = {
        "validation": {"pixels.npy": pixels, "labels.npy": outputs.argmax(1)},
        "float": {"outputs.npy": outputs + np.float32(0.01)},
        "onnx-int8": {"outputs.npy": outputs},
        "npu-int8": {"outputs.npy": outputs},
    }
    for stage, files in arrays.items():
        (folder / "stages" / stage).mkdir(parents=True)
        for name, array in files.items():
            np.save(folder / "stages" / stage / name, array)
    (folder / "manifest.json").write_text(json.dumps(manifest(preprocessing, tree, cores)))
    return folder


def manifest(preprocessing: Preprocessing, tree: Tree | None, cores: int) -> dict[str, Any]:
    """What a run says of itself, as far as measuring needs it."""
    board: dict[str, Any] = {"id": "npu", "name": "Made-up NPU", "backend": "rknn", "source": "a test"}
    board["npu"] = {"target": "rk0", "cores": cores}
    if tree is not None:
        board |= {"clocks": {"cpu": tree.clock()}, "temperature": [str(tree.folder / "temp")]}
    cpu = {**board, "id": "onnx", "backend": "onnxruntime", "npu": None}
    made = {"inputs": {"validation": "v"}}
    stages = [
        {"stage": "validation", "key": "v", "folder": "validation", "metrics": {"labelled": True}},
        {"stage": "float", "key": "f", "folder": "float"},
        {"stage": "onnx-int8", "key": "o", "folder": "onnx-int8", **made},
        {
            "stage": "npu-int8",
            "key": "n",
            "folder": "npu-int8",
            **made,
        },
    ]
    images = preprocessing.to_json()
    usual = {
        "sha256": "",
        "bytes": 1,
        "how": "host CPU",
        "preprocessing": images,
        "plan": {"precision": "int8"},
    }
    return {
        "format": 2,
        "edgevit": "0.1.0",
        "written": "2026-11-21T05:20:22+0000",
        "configuration": {"model": "m"},
        "model": {
            "name": "m",
            "source": "a test",
            "num_classes": CLASSES,
            "parameters": 15,
            "preprocessing": images,
        },
        "boards": {"onnx": cpu, "npu": board},
        "stages": stages,
        "results": [
            {**usual, "target": "onnx", "precision": "int8", "artefact": "m-onnx-int8.onnx", "step": "o"},
            {
                **usual,
                "target": "npu",
                "precision": "int8",
                "artefact": "m-npu-int8.rknn",
                "step": "n",
                "tools": {"rknn-toolkit2": "2.5.0"},
            },
        ],
    }


STAND_IN = '''
import time
import numpy as np


class RKNNLite:
    """Stands in for rknn-toolkit-lite2 2.5.0: the same calls, codes and constants, {ms} ms an inference."""

    NPU_CORE_AUTO, NPU_CORE_0, NPU_CORE_1, NPU_CORE_2 = 0, 1, 2, 4
    NPU_CORE_0_1, NPU_CORE_0_1_2, NPU_CORE_ALL = 3, 7, 0xFFFF
    masks = []

    def __init__(self, verbose=False, verbose_file=None):
        self.data = None

    def load_rknn(self, path, key_path=None):
        self.data = open(path, "rb").read()
        print("W rknn-toolkit-lite2 version: 2.5.0")
        return 0 if self.data.startswith(b"RKNN") else -1

    def init_runtime(self, target=None, device_id=None, async_mode=False, core_mask=NPU_CORE_AUTO):
        if b"newer" in self.data:
            return -1
        self.mask = core_mask
        return 0

    def inference(self, inputs, data_type=None, data_format=None, inputs_pass_through=None):
        assert inputs[0].dtype == np.uint8 and inputs[0].ndim == 4
        end = time.perf_counter() + {ms} / 1000
        {wait}
        return [np.full((1, 5), float(self.mask), np.float32)]

    def release(self):
        self.data = None
'''


def write_stand_in(folder: Path, ms: float = 10.0, *, busy: bool = False) -> Path:
    """A module `rknnlite` in `folder`, for PYTHONPATH."""
    package = folder / "rknnlite"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    wait = "while time.perf_counter() < end: pass" if busy else f"time.sleep({ms} / 1000)"
    (package / "api.py").write_text(STAND_IN.replace("{ms}", str(ms)).replace("{wait}", wait))
    return folder
