"""What int8 keeps of six small trained models that are no plain ViTs, on 509 test images.

    python benchmarks/small/train.py     # first, once: an hour on two cores
    python benchmarks/small/run.py
    python benchmarks/small/run.py --model pit --board rk3566

Each is converted twice with the same 256 training images for calibration: with the vendor's own ranges and no
search (`vendor-default`), and as `edgevit convert` does by default. Rows are added to results.json; the table in
README.md is written from it.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from models import MODELS

from edgevit.backends.proof import relative_error
from edgevit.conversion.artefacts import Conversion
from edgevit.files import write_atomically
from edgevit.metrics.classification import compare
from edgevit.metrics.difference import difference
from edgevit.placement.layers import Placement
from edgevit.progress import QUIET
from edgevit.request.job import make_job
from edgevit.run.folder import open_run
from edgevit.targets.profiles import load_board

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
RECIPES = {"vendor-default": "vendor-default", "edgevit": None}
START, END = "<!-- table: written by run.py -->\n", "<!-- end of table -->\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", action="append", choices=list(MODELS))
    parser.add_argument("--board", action="append", default=None)
    parser.add_argument("--again", action="store_true", help="measure rows again that are there")
    arguments = parser.parse_args()
    rows = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    for board in arguments.board or ["rk3588"]:
        for model in arguments.model or MODELS:
            for how, recipe in RECIPES.items():
                key = f"{model} {board} {how}"
                if key in rows and not arguments.again:
                    continue
                rows[key] = measure(model, board, recipe)
                print(
                    key,
                    {name: value for name, value in rows[key].items() if name != "explanation"},
                    flush=True,
                )
                write_atomically(RESULTS, json.dumps(rows, indent=1, sort_keys=True) + "\n")
                write_table(rows)


def measure(model: str, board: str, recipe: str | None) -> dict[str, Any]:
    """One conversion in int8 and what it keeps."""
    data = Path(os.environ.get("EDGEVIT_DATA", "../shared/data")).resolve() / "sign-digits"
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        job = make_job(
            f"{HERE / 'models.py'}:{model}",
            (load_board(board).id,),
            ("int8",),
            recipe,
            Path(folder) / "run",
            weights=HERE / "weights" / f"{model}.safetensors",
            calibration=data / "train",
            validation=data / "test",
        )
        with open_run(job.out) as run:
            conversion = Conversion(job, run, QUIET)
            assert conversion.reference is not None and conversion.validation is not None
            profile = load_board(board)
            step, search = conversion.compiled(profile, "int8"), conversion.planned(profile, "int8")
            found, expected = (
                np.load(step.path("outputs.npy")),
                np.load(conversion.reference.path("outputs.npy")),
            )
            labels = np.load(conversion.validation.path("labels.npy"))
            placement = Placement.from_json(step.metrics["details"]["placement"])
    return {
        **compare(found, expected, labels).to_json(),
        "kl": difference(found, expected).kl,
        "relative_error": relative_error(found, expected),
        "cycles": placement.cycles,
        "cpu_ops": len(placement.cpu_layers),
        "sixteen_bit": len(search.metrics["chosen"]["sixteen_bit"]) if search else 0,
        "explanation": search.metrics["explanation"] if search else None,
        "seconds": round(time.monotonic() - begun, 1),
    }


def write_table(rows: dict[str, Any]) -> None:
    """The README's table."""
    lines = [
        "| model | board | how | float | lost [95 %] | agrees | KL | Mcycles | CPU ops | 16-bit tensors | s |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for key, row in rows.items():
        model, board, how = key.split()
        lost = f"{row['drop_points']:.2f} [{row['drop_low']:.1f}, {row['drop_high']:.1f}]"
        cells = [
            *(model, board, how, f"{100 * row['reference_top1']:.2f}", lost, f"{100 * row['agreement']:.1f}"),
            *(f"{row['kl']:.4f}", f"{row['cycles'] / 1e6:.2f}", str(row["cpu_ops"]), str(row["sixteen_bit"])),
            f"{row['seconds']:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    path = HERE / "README.md"
    before, rest = path.read_text(encoding="utf-8").split(START)
    write_atomically(path, before + START + "\n".join(lines) + "\n" + END + rest.split(END)[1])


if __name__ == "__main__":
    main()
