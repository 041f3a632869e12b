"""Does it convert, is it right, what leaves the NPU: every model of the zoo on every kind of target.

    python benchmarks/zoo/run.py                            # everything; hours
    python benchmarks/zoo/run.py --model pit_ti_224 --board rk3588 --precision float
    python benchmarks/zoo/run.py --again failed             # rows that weren't made, or are not right

One row a build, added to results.json as it is done; a row that is there is not made again, so an interrupted run
goes on where it stopped, and several runs may work side by side on models of their own. The images are 32
photographs from EDGEVIT_DATA (default ../shared/data), for calibration another 32. The tables in README.md are
written from results.json.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from models import MODELS
from table import good, write_tables

from edgevit.backends.proof import relative_error
from edgevit.conversion.artefacts import Conversion
from edgevit.conversion.rewrite_repair import settled
from edgevit.errors import EdgevitError
from edgevit.files import write_atomically
from edgevit.metrics.difference import difference
from edgevit.placement.layers import Placement
from edgevit.progress import QUIET
from edgevit.request.job import make_job
from edgevit.run.folder import Run
from edgevit.targets.profiles import Board, load_board

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
BOARDS = ("onnx", "tflite", "rk3588", "rk3566", "rk3576", "rv1106")
IMAGES = 32
# How int8 ranges are found doesn't decide whether a build is made or what leaves the NPU, and a choice by
# measurement takes minutes.
RECIPE = "vendor-default"


def main() -> None:
    """Make what is asked for and not there yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", action="append", choices=list(MODELS), metavar="NAME")
    parser.add_argument("--board", action="append", choices=BOARDS)
    parser.add_argument("--precision", action="append", choices=("float", "int8"))
    parser.add_argument("--again", choices=("failed", "all"), help="make rows again that are there")
    parser.add_argument("--part", default="0/1", help="0/2 and 1/2: half of the models each")
    arguments = parser.parse_args()
    part, parts = map(int, arguments.part.split("/"))
    for model in (arguments.model or list(MODELS))[part::parts]:
        with tempfile.TemporaryDirectory(prefix="zoo-") as folder:
            for name in arguments.board or BOARDS:
                board = load_board(name)
                kinds = tuple(
                    precision
                    for precision in arguments.precision or ("float", "int8")
                    if precision in board.precisions and wanted(model, board, precision, arguments.again)
                )
                for precision in kinds:
                    row = build(model, board, precision, kinds, Path(folder))
                    keep(f"{model} {board.id} {precision}", row)


def wanted(model: str, board: Board, precision: str, again: str | None) -> bool:
    """Whether a row is to be made now."""
    row = read().get(f"{model} {board.id} {precision}")
    return row is None or again == "all" or (again == "failed" and not good(row | {"precision": precision}))


def read() -> dict[str, Any]:
    """Every row there is."""
    found: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    return found


def keep(key: str, row: dict[str, Any]) -> None:
    """Add a row, and write the tables again."""
    print(f"{key}: {row['seconds']:.0f} s, {row.get('error') or row['relative_error']}", flush=True)
    with FileLock(f"{RESULTS}.lock"):
        rows = read() | {key: row}
        write_atomically(RESULTS, json.dumps(rows, indent=1, sort_keys=True) + "\n")
        write_tables(rows, HERE / "README.md")


def build(
    model: str, board: Board, precision: str, wanted_precisions: tuple[str, ...], folder: Path
) -> dict[str, Any]:
    """One artefact and what it is like, or the line that says why there is none.

    `wanted_precisions` are all that are made of it in this run: they share what proves the compiler.
    """
    job = make_job(
        f"{HERE / 'models.py'}:{model}",
        (board.id,),
        wanted_precisions,
        RECIPE,
        folder / "run",
        calibration=photographs("calibration", folder),
        validation=photographs("validation", folder),
        search_minutes=0.0,
    )
    begun = time.monotonic()
    store = folder / "store"
    store.mkdir(exist_ok=True)
    conversion = Conversion(job, Run(None, store), QUIET)  # a store of its own: it goes with the folder
    try:
        row = measured(conversion, board, precision)
    except EdgevitError as error:
        row = {"error": one_line(error)}
    return row | {"seconds": round(time.monotonic() - begun, 1)}


def photographs(role: str, folder: Path) -> Path:
    """A folder of this many photographs of a role, without labels: the models have classes of their own."""
    data = Path(os.environ.get("EDGEVIT_DATA", "../shared/data")).resolve() / "imagenet-dev"
    own = folder / role
    own.mkdir(exist_ok=True)
    with (data / f"{role}.csv").open(encoding="utf-8") as file:
        for row in islice(csv.DictReader(file), IMAGES):
            link = own / Path(row["path"]).name
            if not link.exists():
                link.symlink_to(data / row["path"])
    return own


def measured(conversion: Conversion, board: Board, precision: str) -> dict[str, Any]:
    """What is kept of a build: how close to torch, what mended it, what left the NPU."""
    assert conversion.reference is not None
    proof, step = settled(conversion, board, precision), conversion.compiled(board, precision)
    expected = np.load(conversion.reference.path("outputs.npy"))
    found = np.load(step.path("outputs.npy"))
    close = difference(found, expected)
    details, left_out = step.metrics["details"], proof.metrics["left_out"] if proof else []
    row = {
        "images": len(found),
        "relative_error": relative_error(found, expected),
        "agreement": close.agreement,
        "flipped_margin": flipped_margin(found, expected),
        "cosine": close.cosine,
        "largest_difference": float(np.abs(found - expected).max()),
        "largest_output": float(np.abs(expected).max()),
        "repaired": [*conversion.breaking.get((board.id, precision), ((), 0))[0], *left_out],
        "as_built": proof.metrics["error"] if proof else None,
        "fails": details.get("disabled_rules", []),
        "bytes": step.path(step.metrics["artefact"]).stat().st_size,
    }
    if "placement" in details and board.npu is not None:
        placement = Placement.from_json(details["placement"])
        left = placement.cpu_ops(board.npu.cpu_ops)
        row |= {"cycles": placement.cycles, "cpu_ops": {op.op: op.count for op in left}}
    if "partitions" in details:
        row |= {"partitions": details["partitions"], "outside": details["outside"]}
    shutil.rmtree(step.folder / "jobs", ignore_errors=True)
    return row


def flipped_margin(found: np.ndarray, expected: np.ndarray) -> float:
    """Of images whose prediction changed, the largest lead that float gave its own, over its outputs' range.

    Untrained models have near ties: a lead of a thousandth is within float16's rounding.
    """
    rows, ours, theirs = np.arange(len(found)), found.argmax(1), expected.argmax(1)
    lead = expected[rows, theirs] - expected[rows, ours]
    return float((lead / (expected.max(1) - expected.min(1))).max())


def one_line(error: EdgevitError) -> str:
    """An error without paths: logs are not kept."""
    return error.why.split(" (log")[0].split("; log")[0]


if __name__ == "__main__":
    main()
