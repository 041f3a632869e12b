"""Ways to a smaller ViT, by what they cost in accuracy and save in cycles.

    pip install torch-pruning                                 # only for its own row
    python benchmarks/pruning/run.py --data DATA              # all rows; hours on two cores
    python benchmarks/pruning/run.py --data DATA --only heads --counts 6 --counts 9
    python benchmarks/pruning/run.py --data DATA --only recovery     # 10 minutes a row: leave the machine alone

DATA holds deit-tiny/ and imagenet-dev/ (calibration.csv, validation.csv). Heads are chosen and refitted on the 256
calibration images; nothing sees a validation image before it is measured. Rows go to results.json one by one and a
row that is there is not measured again; the tables in README.md and curves.svg are written from it.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from methods import METHODS
from table import write_pictures, write_table

from edgevit.compression.calibration_split import split_images
from edgevit.compression.fitting import estimate_sensitivity
from edgevit.compression.head_choice import Removal, choose_heads, drop_heads, frozen_copy
from edgevit.compression.heads import remove_and_refit
from edgevit.conversion.artefacts import Conversion
from edgevit.conversion.inspection import all_costs, inspect
from edgevit.conversion.manifest import reduction
from edgevit.conversion.reference import outputs_of
from edgevit.files import write_atomically
from edgevit.metrics.classification import compare
from edgevit.progress import QUIET
from edgevit.request.job import Job, make_job
from edgevit.run.folder import open_run

HERE = Path(__file__).parent
RESULTS, RUN = HERE / "results.json", Path("runs/benchmark-pruning")
MODEL, WEIGHTS = "deit_tiny_patch16_224", "deit-tiny/deit_tiny_patch16_224.safetensors"
COUNTS = (6, 9, 3, 12)
SIZES = ("192", "160", "208", "176")
TARGET = "rk3588"
OURS = "edgevit"
# What is recovered for ten minutes each.
RECOVERED: tuple[dict[str, Any], ...] = (
    {"prune_heads": "6"},
    {"prune_heads": "9"},
    {"resolution": "192"},
    {"resolution": "160"},
)


def main() -> None:
    """Measure what is asked for and not there yet; write tables and pictures after every row."""
    arguments = parse()
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    for key, measure in rows(arguments):
        if key in results:
            continue
        begun = time.monotonic()
        results[key] = measure()
        print(f"{key}: {time.monotonic() - begun:.0f} s", flush=True)
        write_atomically(RESULTS, json.dumps(results, indent=1, sort_keys=True) + "\n")
        write_table(results, HERE / "README.md")
        write_pictures(results, HERE)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", action="append", choices=["heads", "resolution", "cycles", "recovery"])
    parser.add_argument("--counts", action="append", type=int)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    return arguments


def rows(arguments: argparse.Namespace) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """(key, how it is measured) of every row asked for."""
    kinds = arguments.only or ["heads", "resolution", "cycles"]
    counts = tuple(arguments.counts or COUNTS)
    if "heads" in kinds:
        yield from head_rows(arguments.data, counts)
    if "resolution" in kinds:
        for size in SIZES:
            yield f"resolution {size}", lambda size=size: measured(arguments.data, {"resolution": size})
    if "cycles" in kinds:
        for options in cycle_options(counts):
            yield f"cycles {label(options)}", lambda options=options: cycles(arguments.data, options)
    if "recovery" in kinds:
        for options in RECOVERED:
            request = {**options, "recover": True, "recover_minutes": 10.0}
            yield f"recovered {label(options)}", lambda request=request: measured(arguments.data, request)


def head_rows(data: Path, counts: tuple[int, ...]) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Each way to choose heads, each number of them, with and without least squares."""
    bench = Heads(data, max(counts))
    for count in counts:
        for name in (OURS, *METHODS):
            for fitted in (True, False):
                key = f"heads {count} {name} {'refitted' if fitted else 'dropped'}"
                yield key, lambda name=name, count=count, fitted=fitted: bench.row(name, count, fitted)


class Heads:
    """The model, its images and the choices made so far; each is made when first needed."""

    def __init__(self, data: Path, most: int) -> None:
        self.data, self.most = data, most
        self.chosen: dict[tuple[str, int], list[Removal]] = {}
        self.ready = False

    def prepare(self) -> None:
        """Load everything once."""
        if self.ready:
            return
        with open_run(RUN) as run:
            conversion = Conversion(job(self.data, {}), run, QUIET)
            pixels = conversion.fitting(conversion.own_preprocessing)
            validation, reference = conversion.validation, conversion.reference
            assert pixels is not None and validation is not None and reference is not None
            self.loaded = conversion.loaded
        self.inputs = torch.from_numpy(
            self.loaded.preprocessing.normalise(np.load(pixels.path("pixels.npy")))
        )
        self.labels = torch.tensor(labels_of(self.data, len(self.inputs)))
        self.pixels = np.load(validation.path("pixels.npy"), mmap_mode="r")
        self.expected = np.load(reference.path("outputs.npy"))
        self.truth = np.load(validation.path("labels.npy"))
        self.split = split_images(self.inputs)
        self.sensitivity = estimate_sensitivity(self.loaded.module, self.split.fit)
        self.ready = True

    def choose(self, name: str, count: int) -> list[Removal]:
        """The heads a method removes; edgevit's order for more heads begins with that for fewer."""
        if name == OURS:
            if (OURS, self.most) not in self.chosen:
                chosen = choose_heads(self.loaded.module, self.most, self.split, self.sensitivity)
                self.chosen[OURS, self.most] = chosen
            return self.chosen[OURS, self.most][:count]
        if (name, count) not in self.chosen:
            chosen = METHODS[name](self.loaded.module, count, self.inputs, self.labels)
            self.chosen[name, count] = chosen
        return self.chosen[name, count]

    def row(self, name: str, count: int, fitted: bool) -> dict[str, Any]:
        """Accuracy without the heads a method chooses."""
        self.prepare()
        begun = time.monotonic()
        removed = self.choose(name, count)
        if fitted:
            module = remove_and_refit(self.loaded.module, removed, self.split, self.sensitivity).module
        else:
            module = frozen_copy(self.loaded.module)
            for index, block in enumerate(module.blocks):
                drop_heads(block.attn, [gone.head for gone in removed if gone.block == index])
        seconds = time.monotonic() - begun
        outputs = outputs_of(module.requires_grad_(False), self.pixels, self.loaded.preprocessing, QUIET)
        return {
            "accuracy": compare(outputs, self.expected, self.truth).to_json(),
            "removed": [[gone.block, gone.head] for gone in removed],
            "seconds": round(seconds, 1),
            "threads": torch.get_num_threads(),
        }


def measured(data: Path, options: dict[str, Any]) -> dict[str, Any]:
    """What `edgevit convert` with these options measures after its last lossy step."""
    with open_run(RUN) as run:
        conversion = Conversion(job(data, options), run, QUIET)
        record = reduction(conversion, conversion.reductions[-1], all_costs(conversion)[-1])
        return {**record, "threads": torch.get_num_threads()}


def cycle_options(counts: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    """The models whose cycles are counted."""
    yield {}
    yield from ({"resolution": size} for size in SIZES)
    yield from ({"prune_heads": str(count)} for count in counts)


def cycles(data: Path, options: dict[str, Any]) -> dict[str, Any]:
    """What `edgevit inspect` with these options says; which heads go makes no difference to it."""
    asked = make_job(MODEL, (TARGET,), ("int8",), None, None, images=False, weights=data / WEIGHTS, **options)
    with open_run(RUN / "inspect") as run:
        record = inspect(asked, run, QUIET, before_after=False)[0]
    kept = ("how", "cycles", "bytes", "weight_bytes", "latency")
    return {name: record[name] for name in kept}


def job(data: Path, options: dict[str, Any]) -> Job:
    """A conversion of the reference model with its images; all 256 calibration images are used."""
    images = {role: data / "imagenet-dev" / f"{role}.csv" for role in ("calibration", "validation")}
    return replace(
        make_job(MODEL, ("onnx",), ("float",), None, None, weights=data / WEIGHTS, **images, **options),
        out=RUN,
    )


def labels_of(data: Path, count: int) -> list[int]:
    """Labels of the calibration images: Taylor importance wants them, edgevit doesn't."""
    with (data / "imagenet-dev" / "calibration.csv").open(newline="", encoding="utf-8") as handle:
        labels = [int(row["label"]) for row in csv.DictReader(handle)]
    assert len(labels) == count
    return labels


def label(options: dict[str, Any]) -> str:
    """A row's name."""
    return " ".join(f"{name.replace('prune_', '')} {value}" for name, value in options.items()) or "whole"


if __name__ == "__main__":
    main()
