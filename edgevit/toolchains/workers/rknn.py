"""Runs rknn-toolkit2 in its own environment: `python -I rknn.py JOB_DIR`, one job, one call.

Reads request.json {"call": name, "args": {...}, "borrowed": None}, appends progress to
events.jsonl, writes result.json last. Needs rknn-toolkit2, and never edgevit, which is not installed here.
All native output (with the compiler's layer table) goes to stdout and stderr; the parent keeps it in a file.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
# This file is named like the vendor's package, which is the one to import; Python 3.10 knows no option -P.
sys.path[:] = [folder for folder in sys.path if Path(folder).resolve() != HERE.resolve()]
sys.path.append(str(HERE / "shared"))
from forked import rows_of as rows_by_processes  # type: ignore[import-not-found]  # noqa: E402
from job import Values, answer, event, step  # type: ignore[import-not-found]  # noqa: E402

DATASET = "calibration"  # folder of the job: one .npy an image
TEMPORARY = "tmp"
MODEL = "model.onnx"  # the toolkit sees short relative paths only: their lengths show in the .rknn
RESTARTED = "EDGEVIT_RKNN_ADDRESSES"
ADDR_NO_RANDOMIZE = 0x0040000  # linux/personality.h
# What the toolkit and this file leave in the job's folder.
LEFTOVERS = (
    *(MODEL, "check*.onnx", "*.onnx.data", "snapshot", "dump"),
    *(TEMPORARY, DATASET, f"{DATASET}.txt", "share-*"),
)


class VendorFailed(Exception):
    """A toolkit function returned an error code instead of raising."""


def build(
    model: str,
    target: str,
    mean: list[float],
    std: list[float],
    artefact: str,
    quantize: bool,
    algorithm: str = "normal",
    calibration: str | None = None,
    evaluate: str | None = None,
    outputs: str | None = None,
    disable_rules: list[str] | None = None,
    config: Values | None = None,
    options: Values | None = None,
    probe: Values | None = None,
) -> Values:
    """Compile an ONNX file to a .rknn that takes uint8 [1, height, width, channels]; simulate it if asked.

    `mean` and `std` are per channel in 0..255; the ONNX takes float32 [1, channels, height, width] normalised
    with them. `calibration` and `evaluate` are .npy files of pixels, uint8 [n, height, width, channels];
    `outputs` is written as float32 [n, values], all outputs side by side. The simulator only works in the
    session that built. `options` are passed to the toolkit's build. `probe` names `pixels` to simulate first,
    their `outputs` file, and those `expected`: where they differ by more than `tolerance`, `evaluate` is left
    out.
    """
    with Session(target, mean, std, algorithm, disable_rules, config) as rknn:
        load(rknn, model)
        step("build")
        dataset = write_dataset(calibration, rows_of(model)) if quantize and calibration else None
        check(rknn.build(do_quantization=quantize, dataset=dataset, **(options or {})), "build")
        return finish(rknn, artefact, evaluate, outputs, probe)


def hybrid_step1(
    model: str,
    target: str,
    mean: list[float],
    std: list[float],
    calibration: str,
    algorithm: str = "normal",
    disable_rules: list[str] | None = None,
    config: Values | None = None,
) -> Values:
    """Calibrate; give the paths of the graph, its data and the editable table of ranges and types."""
    with Session(target, mean, std, algorithm, disable_rules, config) as rknn:
        load(rknn, model)
        step("calibrate")
        check(
            rknn.hybrid_quantization_step1(dataset=write_dataset(calibration, rows_of(model))), "hybrid_step1"
        )
    stem = Path(MODEL).stem
    files = {"graph": f"{stem}.model", "data": f"{stem}.data", "table": f"{stem}.quantization.cfg"}
    paths = {name: Path.cwd() / file for name, file in files.items()}
    for path in paths.values():
        if not path.is_file():
            raise VendorFailed(f"hybrid_step1 wrote no {path.name}")
    return {name: str(path) for name, path in paths.items()} | common()


def hybrid_step2(
    graph: str,
    data: str,
    table: str,
    artefact: str,
    evaluate: str | None = None,
    outputs: str | None = None,
) -> Values:
    """Compile step 1's graph with an edited table; simulate as `build` does."""
    from rknn.api import RKNN

    rknn = RKNN(verbose=True)
    try:
        step("build")
        done = rknn.hybrid_quantization_step2(
            model_input=graph, data_input=data, model_quantization_cfg=table
        )
        check(done, "hybrid_step2")
        return finish(rknn, artefact, evaluate, outputs)
    finally:
        rknn.release()


CALLS: dict[str, Callable[..., Values]] = {
    "build": build,
    "hybrid_step1": hybrid_step1,
    "hybrid_step2": hybrid_step2,
}


class Session:
    """A configured RKNN object, released at the end."""

    def __init__(
        self,
        target: str,
        mean: list[float],
        std: list[float],
        algorithm: str,
        disable_rules: list[str] | None,
        config: Values | None,
    ) -> None:
        self.values: Values = {
            "mean_values": [mean],
            "std_values": [std],
            "target_platform": target,
            "quantized_algorithm": algorithm,
            **(config or {}),
        }
        if disable_rules:
            self.values["disable_rules"] = disable_rules

    def __enter__(self) -> Any:
        from rknn.api import RKNN

        self.rknn = RKNN(verbose=True)  # the layer table is printed only then
        check(self.rknn.config(**self.values), "config")
        return self.rknn

    def __exit__(self, *_: object) -> None:
        self.rknn.release()


def load(rknn: Any, model: str) -> None:
    """Give the toolkit the ONNX file."""
    step("load")
    Path(MODEL).unlink(missing_ok=True)
    Path(MODEL).symlink_to(model)
    check(rknn.load_onnx(model=MODEL), "load_onnx")


def finish(
    rknn: Any, artefact: str, evaluate: str | None, outputs: str | None, probe: Values | None = None
) -> Values:
    """Export under the final name only once whole, then simulate the probe, and where it is right the rest."""
    step("export")
    staging = "model.rknn"
    check(rknn.export_rknn(staging), "export_rknn")
    if not Path(staging).is_file():
        raise VendorFailed("export_rknn wrote no file")
    publish(staging, artefact)
    if probe or evaluate:
        step("simulate")
        check(rknn.init_runtime(), "init_runtime")
    right = probe is None or probed(rknn, **probe)
    images = simulate(rknn, evaluate, outputs) if right and evaluate and outputs else 0
    return {
        "artefact": artefact,
        "size_bytes": Path(artefact).stat().st_size,
        "simulated_images": images,
        "right": right,
    } | common()


def probed(
    rknn: Any, pixels: str, outputs: str, expected: str, tolerance: float, sizes: list[int] | None = None
) -> bool:
    """Whether each output, of `sizes` values, is as expected on a probe, by the norm of the difference."""
    import numpy as np

    simulate(rknn, pixels, outputs)
    found, right = np.load(outputs), np.load(expected)
    # NaN compares false, so it counts as wrong.
    ends = np.cumsum(sizes or [])[:-1]
    parts = zip(np.split(found, ends, axis=1), np.split(right, ends, axis=1), strict=True)
    return all(bool(np.linalg.norm(a - b) <= tolerance * np.linalg.norm(b)) for a, b in parts)


def simulate(rknn: Any, evaluate: str, outputs: str) -> int:
    """Run every image of `evaluate` through the compiled graph on this machine; returns how many."""
    import numpy as np

    pixels = np.load(evaluate, mmap_mode="r", allow_pickle=False)

    def row(number: int) -> Any:
        found = rknn.inference(inputs=[pixels[number][None]], data_format=["nhwc"])
        if not found:
            raise VendorFailed(f"inference gave nothing for image {number}")
        return np.concatenate([np.asarray(each, dtype=np.float32).reshape(-1) for each in found])

    rows = rows_by_processes(len(pixels), row, lambda done: event(done=done, total=len(pixels)))
    np.save("outputs.npy", rows, allow_pickle=False)
    publish("outputs.npy", outputs)
    return len(rows)


def publish(file: str, final: str) -> None:
    """Move a whole file of the job to its final name, which may be on another disk."""
    if Path(file).resolve() == Path(final).resolve():
        return
    staging = Path(f"{final}.part")
    shutil.move(file, staging)
    staging.replace(final)


def rows_of(model: str) -> int:
    """How many images one run of the model takes (its first dimension)."""
    import onnx

    first = onnx.load(model, load_external_data=False).graph.input[0]
    return max(1, int(first.type.tensor_type.shape.dim[0].dim_value))


def write_dataset(calibration: str, batch: int) -> str:
    """Write pixels [n, height, width, channels] as a list of [1, channels, height, width] files; its path.

    The toolkit reads calibration arrays in the ONNX input's layout and applies mean and std itself, while
    inference() takes the other layout by default. Fewer images than one batch is an error here.
    """
    import numpy as np

    pixels = np.load(calibration, mmap_mode="r", allow_pickle=False)
    if len(pixels) < batch:
        raise ValueError(f"{len(pixels)} calibration images, the model takes {batch} at a time")
    Path(DATASET).mkdir(exist_ok=True)
    names = []
    for number, image in enumerate(pixels):
        name = f"{DATASET}/{number:05d}.npy"
        np.save(name, np.ascontiguousarray(image.transpose(2, 0, 1))[None], allow_pickle=False)
        names.append(name)
    Path(f"{DATASET}.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    return f"{DATASET}.txt"


def check(code: object, what: str) -> None:
    """The toolkit returns 0, or an error code, or (rarely) raises."""
    if code != 0:
        raise VendorFailed(f"{what} returned {code}")


def common() -> Values:
    """What every result states: the toolkit's version and whether addresses were fixed."""
    return {"toolkit": version("rknn-toolkit2"), "addresses": os.environ[RESTARTED]}


def remove_leftovers() -> None:
    """Delete what the toolkit drops into its folder; a large model's copies fill a disk."""
    for pattern in LEFTOVERS:
        for path in Path.cwd().glob(pattern):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def keep_lines_whole() -> None:
    """Make the C library flush stdout line by line, or a message on stderr lands inside a table's row."""
    libc = ctypes.CDLL(None)
    libc.setvbuf(ctypes.c_void_p.in_dll(libc, "stdout"), None, 1, 1 << 16)  # 1 is _IOLBF in glibc


def restart_reproducibly() -> None:
    """Replace this process by one with fixed addresses, hash seed and thread order, once.

    The compiler leaves uninitialised host memory, pointers among it, in unused fields of the .rknn: two
    builds of one model differ in about a thousand bytes. With the address layout fixed (the environment is
    part of it) they are usually equal byte for byte, in job folders whose paths are about equally long; on a
    busy machine the heap may still grow in another order.
    Some containers forbid it; then the files work the same and differ in those bytes.
    """
    fixed = ctypes.CDLL(None).personality(ADDR_NO_RANDOMIZE) != -1
    environment = {"PATH": os.defpath, "HOME": TEMPORARY, "LC_ALL": "C.UTF-8", "TMPDIR": TEMPORARY}
    if "LD_LIBRARY_PATH" in os.environ:
        environment["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
    # The toolkit runs ONNX Runtime, whose telemetry looks up a host on the internet.
    settings = {
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": "1",
        "ORT_DISABLE_TELEMETRY": "1",
        RESTARTED: "fixed" if fixed else "random",
    }
    options = ["-s", __file__]  # -I less what would ignore the hash seed
    os.execve(sys.executable, [sys.executable, *options], environment | settings)


def main() -> None:
    """Run the one call of the job in its folder; temporary files stay there too, and nothing outlives it."""
    if RESTARTED not in os.environ:
        os.chdir(sys.argv[1])
        restart_reproducibly()
    Path(TEMPORARY).mkdir(exist_ok=True)
    tempfile.tempdir = TEMPORARY
    keep_lines_whole()
    answer(CALLS, clean=remove_leftovers)


if __name__ == "__main__":
    main()
