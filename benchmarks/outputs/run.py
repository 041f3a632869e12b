"""What int8 keeps of models that give no classes, on an RK3588: the plain toolkit beside edgevit.

    python benchmarks/outputs/run.py
    python benchmarks/outputs/run.py --model deit_map

Needs transformers for the towers. Each is converted twice with the same 128 calibration images (the reference
DeiT-Ti with all 256): with the vendor's own ranges and no search (`vendor-default`), and as `edgevit convert`
does by default. Rows are added to results.json; the table in README.md is written from it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from models import DATA, MODELS

from edgevit.conversion.artefacts import Conversion
from edgevit.files import write_atomically
from edgevit.placement.layers import Placement
from edgevit.progress import QUIET
from edgevit.request.job import make_job
from edgevit.run.folder import open_run
from edgevit.targets.profiles import load_board

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
RECIPES = {"vendor-default": "vendor-default", "edgevit": None}
BOARD, CALIBRATION = "rk3588", 128
START, END = "<!-- table: written by run.py -->\n", "<!-- end of table -->\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", action="append", choices=list(MODELS))
    parser.add_argument("--again", action="store_true", help="measure rows again that are there")
    arguments = parser.parse_args()
    rows = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    for model in arguments.model or MODELS:
        for how, recipe in RECIPES.items():
            key = f"{model} {how}"
            if key not in rows or arguments.again:
                rows[key] = measure(model, recipe)
                print(key, rows[key], flush=True)
                write_atomically(RESULTS, json.dumps(rows, indent=1, sort_keys=True) + "\n")
                write_table(rows)


def measure(model: str, recipe: str | None) -> dict[str, Any]:
    """One conversion in int8 and what it keeps."""
    _, kind, images = MODELS[model]
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        job = make_job(
            f"{HERE / 'models.py'}:{model}",
            (BOARD,),
            ("int8",),
            recipe,
            Path(folder) / "run",
            search_minutes=0 if recipe else None,
            calibration=DATA / "imagenet-dev" / "calibration.csv",
            validation=DATA / "imagenet-dev" / "validation.csv",
            calibration_images=None if model == "deit_embedding" else CALIBRATION,
            validation_images=images,
            outputs=(kind,),
        )
        with open_run(job.out) as run:
            conversion = Conversion(job, run, QUIET)
            profile = load_board(BOARD)
            step, search = conversion.compiled(profile, "int8"), conversion.planned(profile, "int8")
            measured = conversion.evaluated(step)
            assert measured is not None
            placement = Placement.from_json(step.metrics["details"]["placement"])
            kept = conversion.plan(profile, "int8").sixteen_bit
    return {
        **measured.metrics,
        "cycles": placement.cycles,
        "cpu_ops": len(placement.cpu_layers),
        "sixteen_bit": len(kept),
        "explanation": search.metrics["explanation"] if search else None,
        "seconds": round(time.monotonic() - begun, 1),
    }


def write_table(rows: dict[str, Any]) -> None:
    """The README's table."""
    lines = [
        "| model | how | n | cosine | worst | same nearest | 1-NN lost [95 %] | Mcycles | CPU ops | 16 bits | s |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for key, row in rows.items():
        embedding, right = row["kind"] == "embedding", row["top1"] is not None
        lost = f"{row['drop_points']:.2f} [{row['drop_low']:.1f}, {row['drop_high']:.1f}]" if right else ""
        cells = [
            *key.split(),
            str(row["n"]),
            f"{row['cosine']:.4f}",
            f"{row['cosine_worst']:.4f}",
            f"{100 * row['agreement']:.1f}" if embedding else "",
            lost,
            f"{row['cycles'] / 1e6:.2f}",
            str(row["cpu_ops"]),
            str(row["sixteen_bit"]),
            f"{row['seconds']:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    path = HERE / "README.md"
    text = path.read_text(encoding="utf-8")
    before, after = text.split(START)[0], text.split(END)[1]
    write_atomically(path, before + START + "\n".join(lines) + "\n" + END + after)


if __name__ == "__main__":
    main()
