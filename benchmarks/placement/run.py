"""Plain rknn-toolkit2 against edgevit: the compiler's cycles and the ops that leave the NPU.

    python benchmarks/placement/run.py                       # everything; hours
    python benchmarks/placement/run.py --model deit_tiny --board rk3588

Plain is what the toolkit's examples do: torch.onnx.export, onnxsim, config with mean and std, load, build (without
onnxsim the toolkit's rule seperate_exmatmul_rs_split dies on every attention that torch exports). Both get the
same weights and calibration images. Results are added to results.json one by one; a row that is there is not
measured again. The table in README.md is written from it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx
import onnxsim
import torch
from models import MODELS
from table import write_table

from edgevit.backends.rknn.build import read_log, rules_to_disable
from edgevit.backends.rknn.log import parse_log
from edgevit.conversion.artefacts import Conversion
from edgevit.conversion.inspection import latency
from edgevit.errors import EdgevitError
from edgevit.files import write_atomically
from edgevit.placement.layers import Placement
from edgevit.progress import QUIET
from edgevit.request.job import make_job
from edgevit.run.folder import open_run
from edgevit.targets.profiles import Board, load_board
from edgevit.toolchains.call import run_job

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
BOARDS = (
    "rk3588",
    "rk3576",
    "rk3566",
    "rk3562",
    "rv1126b",
    "rk2118",
    "rv1106",
    "rv1103",
    "rv1106b",
    "rv1103b",
)
OPSET = 17  # what the toolkit's documentation recommends for this version
TIMEOUT_S = 3600.0


def main() -> None:
    """Measure what is asked for and not there yet; write the table after every row."""
    arguments = parse()
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    for model in arguments.model or MODELS:
        with tempfile.TemporaryDirectory() as folder:
            for name in arguments.board or BOARDS:
                board = load_board(name)
                for precision in board.precisions:
                    key = f"{model} {board.id} {precision}"
                    if key in results:
                        continue
                    begun = time.monotonic()
                    results[key] = compare(model, board, precision, Path(folder))
                    print(f"{key}: {time.monotonic() - begun:.0f} s", flush=True)
                    write_atomically(RESULTS, json.dumps(results, indent=1, sort_keys=True) + "\n")
                    write_table(results, HERE / "README.md")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", action="append", choices=list(MODELS))
    parser.add_argument("--board", action="append", choices=BOARDS)
    return parser.parse_args()


def compare(model: str, board: Board, precision: str, folder: Path) -> dict[str, Any]:
    """Both variants of one model on one board, from one set of weights and noise images."""
    reference = f"{HERE / 'models.py'}:{model}"
    job = make_job(reference, (board.id,), (precision,), None, folder / "run", images=False)
    with open_run(job.out) as run:
        conversion = Conversion(job, run, QUIET)
        found = {"plain": plain(conversion, board, precision, folder / f"plain-{board.id}-{precision}")}
        found["edgevit"] = ours(conversion, board, precision)
    return found


def ours(conversion: Conversion, board: Board, precision: str) -> dict[str, Any]:
    """What `edgevit inspect` reports."""
    try:
        details = conversion.compiled(board, precision).metrics["details"]
    except EdgevitError as error:
        return {"error": one_line(error)}
    return record(Placement.from_json(details["placement"]), board, details["disabled_rules"])


def plain(conversion: Conversion, board: Board, precision: str, job: Path) -> dict[str, Any]:
    """What the toolkit makes of a plain export; where it dies, the rule or error it died of."""
    loaded = conversion.loaded
    graph = conversion.run.folder / "plain.onnx"
    if not graph.exists():
        export(loaded.module, loaded.preprocessing.size, graph)
    arguments = {
        "model": str(graph.resolve()),
        "target": board.npu.target if board.npu else "",
        "mean": [value * 255 for value in loaded.preprocessing.mean],
        "std": [value * 255 for value in loaded.preprocessing.std],
        "artefact": str((job / "model.rknn").resolve()),
        "quantize": precision == "int8",
        "calibration": str(conversion.probe.path("pixels.npy").resolve()) if precision == "int8" else None,
    }
    job.mkdir(parents=True)
    try:
        run_job("rknn", "build", arguments, job, progress=QUIET, timeout_s=TIMEOUT_S)
    except EdgevitError as error:
        rules = rules_to_disable(read_log(job))
        return {"error": f"dies in {', '.join(rules)}" if rules else one_line(error)}
    placement = parse_log(read_log(job))
    shutil.rmtree(job)
    return record(placement, board, [])


def export(module: torch.nn.Module, size: tuple[int, int], path: Path) -> None:
    """As the toolkit's own examples export and simplify."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (torch.zeros(1, 3, *size),), str(path), opset_version=OPSET, dynamo=False)
    simplified, _ = onnxsim.simplify(onnx.load(path))
    onnx.save(simplified, path)


def record(placement: Placement, board: Board, disabled_rules: list[str]) -> dict[str, Any]:
    """The figures kept of one build."""
    reasons = board.npu.cpu_ops if board.npu else {}
    return {
        "cycles": placement.cycles,
        "cpu_ops": [asdict(op) for op in placement.cpu_ops(reasons)],
        "traffic_kb": placement.traffic_kb,
        "weight_bytes": placement.weight_bytes,
        "disabled_rules": disabled_rules,
        "latency": latency({"placement": placement.to_json()}, board),
    }


def one_line(error: EdgevitError) -> str:
    """An error without paths: logs are not kept."""
    return error.why.split(" (log")[0].split("; log")[0]


if __name__ == "__main__":
    main()
