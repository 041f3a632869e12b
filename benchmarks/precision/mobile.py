"""LiteRT and ONNX Runtime int8 against the vendors' own recipes, on the reference model and images.

    EDGEVIT_DATA=../shared/data python benchmarks/precision/mobile.py [--only litert] [--images 744] [--rounds 60]

Plain rows: the model as it is, exported and quantized by the vendor's recipe of that name, all operations it
covers. edgevit rows: the same images through `edgevit convert`. Conversion is a process tree whose wall time and
peak memory are recorded; accuracy is measured on the validation images; then all artefacts of a runtime are
timed in turns on one thread, in one process, and each round gives one ratio to the plain float artefact.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from edgevit.backends.litert.backend import pixel_scaling
from edgevit.backends.onnxruntime import host
from edgevit.backends.onnxruntime.recipes import Images, quiet
from edgevit.conversion.artefacts import Conversion
from edgevit.export import export_onnx, export_program
from edgevit.files import write_atomically
from edgevit.metrics.classification import compare
from edgevit.progress import QUIET
from edgevit.request.job import make_job
from edgevit.run.folder import open_run
from edgevit.run.memory import peak_memory
from edgevit.toolchains.call import run_job

HERE = Path(__file__).parent
RESULTS = HERE / "mobile.json"
MODEL = "deit_tiny_patch16_224"
CALIBRATION_IMAGES = 128
TIMEOUT_S = 2 * 3600.0
FLOAT = "plain, float"
LITERT = ("dynamic_wi8_afp32", "weight_only_wi8_afp32", "static_wi8_ai8")
BOARDS = {"litert": "tflite", "onnxruntime": "onnx"}
HEADER = (
    "| runtime | what | top-1 | lost [95 %] | agrees | KL | ms | times as fast [quartiles] | partitions | MB | s |"
    " peak MB |\n|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
)
Values = dict[str, Any]


def main() -> None:
    """Make, measure and time every artefact of a runtime; write the table after each runtime."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=list(BOARDS))
    parser.add_argument("--images", type=int, default=744, help="validation images")
    parser.add_argument("--rounds", type=int, default=60)
    arguments = parser.parse_args()
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    for runtime in [arguments.only] if arguments.only else BOARDS:
        with tempfile.TemporaryDirectory() as folder:
            rows = measure(runtime, Path(folder), arguments.images, arguments.rounds)
        results |= {f"{runtime} {name}": row for name, row in rows.items()}
        write_atomically(RESULTS, json.dumps(results, indent=1) + "\n")
        write_table(results)


def measure(runtime: str, folder: Path, images: int, rounds: int) -> dict[str, Values]:
    """Every row of one runtime."""
    data = Path(os.environ.get("EDGEVIT_DATA", "../shared/data"))
    job = make_job(
        MODEL,
        (BOARDS[runtime],),
        ("float", "int8"),
        None,
        folder / "run",
        weights=data / "deit-tiny" / "deit_tiny_patch16_224.safetensors",
        calibration=data / "imagenet-dev" / "calibration.csv",
        validation=data / "imagenet-dev" / "validation.csv",
        calibration_images=CALIBRATION_IMAGES,
        validation_images=images,
    )
    with open_run(job.out) as run:
        conversion = Conversion(job, run, QUIET)
        assert conversion.reference is not None and conversion.validation is not None
        rows = (plain_litert if runtime == "litert" else plain_onnx)(conversion, folder)
        rows |= {f"edgevit, {precision}": ours(conversion, precision) for precision in ("float", "int8")}
        reference = np.load(conversion.reference.path("outputs.npy"))
        labels = np.load(conversion.validation.path("labels.npy"))
        for row in rows.values():
            row["accuracy"] = compare(row.pop("logits"), reference, labels).to_json()
        models = [row.pop("model") for row in rows.values()]
        times = (time_litert if runtime == "litert" else time_onnx)(conversion, models, folder, rounds)
    base = list(rows).index(FLOAT)
    for row, series in zip(rows.values(), times, strict=True):
        ratios = [one / two for one, two in zip(times[base], series, strict=True)]
        low, high = np.quantile(ratios, [0.25, 0.75])
        row |= {"ms": median(series), "ratio": median(ratios), "ratio_low": low, "ratio_high": high}
        row |= {"rounds": len(series), "how": "host CPU", "threads": 1}
    return rows


def ours(conversion: Conversion, precision: str) -> Values:
    """What `edgevit convert` makes: export, choice and artefact."""
    (board,) = conversion.job.targets
    step = conversion.compiled(board, precision)
    before = (conversion.exported, conversion.lowered, conversion.planned)
    steps = [*(each(board, precision) for each in before), step]
    search = conversion.planned(board, precision)
    return {
        "model": step.path(step.metrics["artefact"]),
        "logits": np.load(step.path("outputs.npy")),
        "bytes": step.path(step.metrics["artefact"]).stat().st_size,
        "partitions": step.metrics["details"].get("partitions"),
        "seconds": round(sum(each.seconds for each in steps if each), 1),
        "peak_memory_mb": max(each.peak_memory_mb for each in steps if each),
        "recipe": search.metrics["chosen"]["label"] if search else None,
    }


def plain_litert(conversion: Conversion, folder: Path) -> dict[str, Values]:
    """litert-torch's conversion of the model as it is, and the vendor's recipes on it."""
    assert conversion.calibration is not None and conversion.validation is not None
    scaling = pixel_scaling(conversion.own_preprocessing)
    pixels = str(conversion.validation.path("pixels.npy").resolve())
    calibration = str(conversion.calibration.path("pixels.npy").resolve())
    program, in_float = folder / "plain.pt2", folder / "float.tflite"

    def call(name: str, job: str, **args: Any) -> Values:
        return run_job("litert", name, args, folder / job, timeout_s=TIMEOUT_S)

    def evaluated(row: Values) -> Values:
        outputs = row["model"].with_suffix(".npy")
        asked = {"model": str(row["model"]), "pixels": pixels, "logits": str(outputs), "threads": 2}
        ran = call("run", f"run-{row['model'].stem}", **asked, **scaling)
        return row | {"logits": np.load(outputs), "partitions": ran["partitions"]}

    def convert() -> None:
        export_program(conversion.loaded.module, conversion.own_preprocessing.size, 3, program)
        call("convert", "convert", program=str(program), artefact=str(in_float))

    rows = {FLOAT: evaluated(made(in_float, convert))}
    for recipe in LITERT:
        model = folder / f"{recipe}.tflite"
        asked = {"model": str(in_float), "artefact": str(model), "recipe": recipe, "calibration": calibration}

        def quantize(asked: Values = asked, recipe: str = recipe) -> None:
            call("quantize", f"quantize-{recipe}", **asked, **scaling, vendor_ranges=True)

        rows[f"plain, {recipe}"] = evaluated(made(model, quantize))
    return rows


def plain_onnx(conversion: Conversion, folder: Path) -> dict[str, Values]:
    """The model as it is in ONNX, with the vendor's functions at their own settings."""
    from onnxruntime.quantization import quantize_dynamic, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    assert conversion.calibration is not None and conversion.validation is not None
    preprocessing = conversion.own_preprocessing
    calibration = conversion.calibration.path("pixels.npy")
    pixels = np.load(conversion.validation.path("pixels.npy"), mmap_mode="r")
    in_float, prepared = folder / "float.onnx", folder / "prepared.onnx"

    def convert() -> None:
        export_onnx(conversion.loaded.module, preprocessing.size, 3, in_float)
        quant_pre_process(str(in_float), str(prepared))

    def static() -> None:
        quantize_static(prepared, folder / "static.onnx", Images(calibration, preprocessing))

    with quiet():
        rows = {
            FLOAT: made(in_float, convert),
            "plain, quantize_dynamic": made(
                folder / "dynamic.onnx", lambda: quantize_dynamic(prepared, folder / "dynamic.onnx")
            ),
            "plain, quantize_static": made(folder / "static.onnx", static),
        }
    for row in rows.values():
        row["logits"] = host.run(row["model"], pixels, preprocessing, QUIET)
    return rows


def made(model: Path, make: Callable[[], None]) -> Values:
    """Run a conversion; its seconds, peak memory and size."""
    begun = time.monotonic()
    with peak_memory() as memory:
        make()
    return {
        "model": model,
        "bytes": model.stat().st_size,
        "partitions": None,
        "seconds": round(time.monotonic() - begun, 1),
        "peak_memory_mb": memory.peak_mb,
    }


def time_litert(
    conversion: Conversion, models: list[Path], folder: Path, rounds: int
) -> list[tuple[float, ...]]:
    """Milliseconds of every model in turns, in the worker."""
    asked = {"models": [str(model.resolve()) for model in models], "threads": 1, "rounds": rounds}
    done = run_job("litert", "benchmark", asked, folder / "time", timeout_s=TIMEOUT_S)
    return [tuple(series) for series in done["ms"]]


def time_onnx(
    conversion: Conversion, models: list[Path], folder: Path, rounds: int
) -> list[tuple[float, ...]]:
    """Milliseconds of every model in turns, here."""
    assert conversion.validation is not None
    one = np.load(conversion.validation.path("pixels.npy"), mmap_mode="r")[:1]
    inputs = conversion.own_preprocessing.normalise(np.asarray(one))
    return host.in_turns(models, inputs, rounds=rounds, seconds=TIMEOUT_S)


def write_table(results: dict[str, Values]) -> None:
    """Replace the table between its marks in the README."""
    start, end = "<!-- table: mobile -->", "<!-- end of mobile -->"
    readme = HERE / "README.md"
    head, _, rest = readme.read_text(encoding="utf-8").partition(start)
    _, _, tail = rest.partition(end)
    rows = [line(key, result) for key, result in results.items()]
    write_atomically(readme, "\n".join([head + start, HEADER, *rows, end]) + tail)


def line(key: str, result: Values) -> str:
    """One row of the table."""
    runtime, _, name = key.partition(" ")
    found = result["accuracy"]
    if result.get("recipe"):
        name += f" ({result['recipe']})"
    cells = [runtime, name, f"{100 * found['top1']:.2f}"]
    cells += [f"{found['drop_points']:.2f} [{found['drop_low']:.1f}, {found['drop_high']:.1f}]"]
    cells += [f"{100 * found['agreement']:.1f}", f"{found['kl']:.4f}", f"{result['ms']:.1f}"]
    cells += [f"{result['ratio']:.2f} [{result['ratio_low']:.2f}, {result['ratio_high']:.2f}]"]
    cells += [str(result["partitions"] or ""), f"{result['bytes'] / 1e6:.1f}", f"{result['seconds']:.0f}"]
    return f"| {' | '.join([*cells, str(result['peak_memory_mb'])])} |"


if __name__ == "__main__":
    main()
