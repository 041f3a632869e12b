"""RKNN int8 against what rknn-toolkit2 offers itself, in its own simulator, on the reference model and images.

    EDGEVIT_DATA=../shared/data python benchmarks/precision/rknn.py [--board rk3588] [--only "plain, normal"]

Plain rows: torch.onnx.export, onnxsim, rknn.build with each of the toolkit's range estimators, and with
auto_hybrid. edgevit rows: the same images through `edgevit convert`. Every row is a process tree whose wall time
and peak memory are recorded, the 744 simulated images included. Results go to rknn.json one by one; a row that is
there is not measured again.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxsim
import torch
from table import write_table

from edgevit.backends.rknn.build import read_log
from edgevit.backends.rknn.log import parse_log
from edgevit.conversion.artefacts import Conversion
from edgevit.files import write_atomically
from edgevit.metrics.classification import compare
from edgevit.progress import QUIET
from edgevit.request.job import make_job
from edgevit.run.folder import open_run
from edgevit.run.memory import peak_memory
from edgevit.toolchains.call import run_job

HERE = Path(__file__).parent
RESULTS = HERE / "rknn.json"
MODEL = "deit_tiny_patch16_224"
CALIBRATION_IMAGES = 256
# The toolkit's guide asks for 20 to 50 images for mmse, whose time grows with them: every 8th of the 256.
FEW = {"mmse": 8}
TIMEOUT_S = 2 * 3600.0
# Row -> the toolkit's algorithm and options of its build; None: edgevit, with these arguments of a job.
PLAIN = {
    "plain, normal": ("normal", {}),
    "plain, mmse, 32 images": ("mmse", {}),
    "plain, kl_divergence": ("kl_divergence", {}),
    "plain, auto_hybrid": ("normal", {"auto_hybrid": True}),
}
EDGEVIT: dict[str, dict[str, Any]] = {
    "edgevit, vendor-default": {"recipe": "vendor-default"},
    "edgevit, everything int8": {"recipe": "conditioned", "search_minutes": 0.0},
    "edgevit": {"recipe": "conditioned"},
}


def main() -> None:
    """Measure the rows that aren't there; write the table after each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--board", default="rk3588")
    parser.add_argument("--only", action="append", choices=[*PLAIN, *EDGEVIT])
    arguments = parser.parse_args()
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    for name in arguments.only or [*PLAIN, *EDGEVIT]:
        key = f"{arguments.board} {name}"
        if key in results:
            continue
        with tempfile.TemporaryDirectory() as folder:
            results[key] = measure(name, arguments.board, Path(folder))
        print(key, json.dumps(results[key]), flush=True)
        write_atomically(RESULTS, json.dumps(results, indent=1) + "\n")
        write_table(HERE, "rknn", results)


def measure(name: str, board: str, folder: Path) -> dict[str, Any]:
    """One row: convert, time it, simulate the validation images, compare."""
    data = Path(os.environ.get("EDGEVIT_DATA", "../shared/data"))
    options = dict(EDGEVIT.get(name, {"recipe": "vendor-default"}))
    job = make_job(
        MODEL,
        (board,),
        ("int8",),
        options.pop("recipe"),
        folder / "run",
        weights=data / "deit-tiny" / "deit_tiny_patch16_224.safetensors",
        calibration=data / "imagenet-dev" / "calibration.csv",
        validation=data / "imagenet-dev" / "validation.csv",
        calibration_images=CALIBRATION_IMAGES,
        **options,
    )
    with open_run(job.out) as run:
        conversion = Conversion(job, run, QUIET)
        assert conversion.reference is not None and conversion.validation is not None
        made = plain(conversion, *PLAIN[name], folder) if name in PLAIN else ours(conversion)
        reference = np.load(conversion.reference.path("outputs.npy"))
        labels = np.load(conversion.validation.path("labels.npy"))
        accuracy = compare(made.pop("logits"), reference, labels).to_json()
    return {**made, "accuracy": accuracy, "how": "vendor simulator"}


def ours(conversion: Conversion) -> dict[str, Any]:
    """What `edgevit convert` makes."""
    (board,) = conversion.job.targets
    step = conversion.compiled(board, "int8")
    steps = [conversion.exported(board, "int8"), conversion.planned(board, "int8"), step]
    placement = step.metrics["details"]["placement"]
    return {
        "logits": np.load(step.path("outputs.npy")),
        "cycles": placement["cycles"],
        "bytes": step.path(step.metrics["artefact"]).stat().st_size,
        "seconds": round(sum(each.seconds for each in steps if each), 1),
        "peak_memory_mb": max(each.peak_memory_mb for each in steps if each),
        "sixteen_bit": len(conversion.plan(board, "int8").sixteen_bit),
    }


def plain(conversion: Conversion, algorithm: str, options: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What the toolkit makes of a plain export."""
    (board,) = conversion.job.targets
    loaded, pre = conversion.loaded, conversion.own_preprocessing
    graph, job = folder / "plain.onnx", folder / "job"
    job.mkdir()
    assert board.npu is not None and conversion.calibration is not None and conversion.validation is not None
    calibration = folder / "calibration.npy"
    np.save(calibration, np.load(conversion.calibration.path("pixels.npy"))[:: FEW.get(algorithm, 1)])
    begun = time.monotonic()
    with peak_memory() as memory:
        export(loaded.module, pre.size, graph)
        arguments = {
            "model": str(graph.resolve()),
            "target": board.npu.target,
            "mean": [value * 255 for value in pre.mean],
            "std": [value * 255 for value in pre.std],
            "artefact": str(job / "model.rknn"),
            "quantize": True,
            "algorithm": algorithm,
            "options": options,
            "calibration": str(calibration.resolve()),
            "evaluate": str(conversion.validation.path("pixels.npy").resolve()),
            "logits": str(job / "outputs.npy"),
        }
        run_job("rknn", "build", arguments, job, timeout_s=TIMEOUT_S)
    return {
        "logits": np.load(job / "outputs.npy"),
        "cycles": parse_log(read_log(job)).cycles,
        "bytes": (job / "model.rknn").stat().st_size,
        "seconds": round(time.monotonic() - begun, 1),
        "peak_memory_mb": memory.peak_mb,
        "sixteen_bit": None if options else 0,  # auto_hybrid doesn't say
    }


def export(module: torch.nn.Module, size: tuple[int, int], path: Path) -> None:
    """As the toolkit's own examples export and simplify."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (torch.zeros(1, 3, *size),), str(path), opset_version=17, dynamo=False)
    simplified, _ = onnxsim.simplify(onnx.load(path))
    onnx.save(simplified, path)


if __name__ == "__main__":
    main()
