"""Make a bundle: a folder or a .zip, the same bytes from the same run."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tempfile
import zipfile
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from edgevit import __version__
from edgevit.backends.registry import backend_of
from edgevit.bundling.card import cards
from edgevit.bundling.golden import Golden, golden_of, picture, suffix
from edgevit.bundling.one_file import one_file
from edgevit.errors import InputError
from edgevit.files import atomic_path, replace_folder
from edgevit.outputs.kinds import unit_of
from edgevit.run.reading import RunFiles, read_run
from edgevit.run.results import Result

FORMAT = 1
EPOCH = (1980, 1, 1, 0, 0, 0)  # of every entry of a .zip: the same run, the same bytes
SUMS = "SHA256SUMS"
CPP = tuple(Path(__file__).parent.joinpath("cpp", name) for name in ("run.cpp", "CMakeLists.txt"))
WHAT = "cannot bundle"


def make_bundle(
    folder: Path, out: Path | None = None, *, target: str | None = None, precision: str | None = None
) -> Path:
    """Write the bundle of one artefact of a run; returns its path. Raises InputError.

    `out` is a folder that is not there yet or a bundle of before, or a file ending in .zip.
    """
    run = read_run(folder, WHAT)
    result = chosen(run, target, precision)
    where = out or run.folder / f"{Path(result.artefact).stem}-bundle"
    files = contents(run, result)
    if where.suffix.lower() == ".zip":
        with atomic_path(where) as staging:
            write_zip(staging, files, where.stem)
    else:
        write_folder(where, files)
    return where


def chosen(run: RunFiles, target: str | None, precision: str | None) -> Result:
    """The artefact meant. Raises InputError where none or several are."""
    fitting = run.matching(target, precision)
    if len(fitting) != 1:
        why = "several artefacts fit" if fitting else "it made no such artefact"
        raise InputError(f"{WHAT} {run.folder}", why, f"Say --target and --precision: it made {run.made}")
    run.present(fitting[0], WHAT)
    return fitting[0]


def contents(run: RunFiles, result: Result) -> dict[str, bytes]:
    """Every file of the bundle by its name."""
    board = run.manifest.boards[result.target]
    golden = golden_of(run, result)
    channels = result.preprocessing.channels
    names = [f"{number}{suffix(channels)}" for number in range(len(golden.pixels))]
    described = describe(run, result, golden, names)
    outputs = io.BytesIO()
    np.save(outputs, golden.outputs)
    labels, on_board = run.manifest.class_names, backend_of(board).on_board
    samples = samples_of(run, result, described, golden)
    files = {
        result.artefact: run.path_of(result).read_bytes(),
        "model.json": (json.dumps(described, indent=1, ensure_ascii=False) + "\n").encode(),
        "run.py": one_file(on_board).encode(),
        **{name: text.encode() for name, text in cards(run, result, described, samples).items()},
        **({"labels.txt": "".join(f"{name}\n" for name in labels).encode()} if labels else {}),
        **{
            f"golden/{name}": picture(pixels, channels)
            for name, pixels in zip(names, golden.pixels, strict=True)
        },
        **samples,
        **({"golden/outputs.npy": outputs.getvalue()} if names else {}),
    }
    sums = "".join(f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files))
    return {**files, SUMS: sums.encode()}


def samples_of(run: RunFiles, result: Result, described: dict[str, Any], golden: Golden) -> dict[str, bytes]:
    """Programs for other languages, by their names; they show one output, and fit pictures in without a border."""
    on_board = backend_of(run.manifest.boards[result.target]).on_board
    first, *others = described["outputs"]
    if others or result.preprocessing.crop_mode == "border":
        return {}
    # What the class in Kotlin gives and shows.
    suits = described["input"]["type"] == "float32" and first["classes"]
    found = {f"android/{path.name}": path.read_bytes() for path in on_board.android_sample if suits}
    if on_board.cpp_sample:
        found |= {f"cpp/{path.name}": path.read_bytes() for path in (*CPP, *on_board.cpp_sample)}
        found["cpp/model.h"] = header(described, golden).encode()
    return found


def describe(run: RunFiles, result: Result, golden: Golden, names: list[str]) -> dict[str, Any]:
    """model.json: all that a program of one's own needs to run the file."""
    board, preprocessing = run.manifest.boards[result.target], result.preprocessing
    backend = backend_of(board)
    inside = backend.on_board.takes_pixels
    accuracy = result.accuracy
    return {
        "format": FORMAT,
        "name": Path(result.artefact).stem,
        "file": result.artefact,
        "sha256": result.sha256,
        "target": result.target,
        "board": board.name,
        "precision": result.precision,
        "runtime": backend.name,
        "npu_cores": board.npu.cores if board.npu else 0,
        "input": {
            "type": result.details.takes or ("uint8" if inside else "float32"),
            "layout": backend.on_board.layout,
            **preprocessing.for_programs(),
            "normalisation": "inside the file: give pixels"
            if inside
            else "(pixel / 255 - mean) / std, to be done",
        },
        "outputs": [
            {
                "name": each.name,
                "kind": each.kind,
                "shape": list(each.shape or (run.manifest.model.num_classes,)),
                "classes": run.manifest.model.num_classes if each.means.classifies else None,
            }
            for each in run.manifest.model.gives.each
        ],
        "labels": list(run.manifest.class_names or ()),
        "made_with": {"edgevit": __version__, **result.tools},
        "needs_at_least": result.details.needs_at_least,
        "accuracy": None
        if accuracy is None
        else {
            "n": accuracy.n,
            "top1": accuracy.top1,
            "float_top1": accuracy.reference_top1,
            "points_lost": accuracy.drop_points,
            "points_lost_low": accuracy.drop_low,
            "points_lost_high": accuracy.drop_high,
            "unit": unit_of(accuracy),
            "agreement": accuracy.agreement,
            "cosine": accuracy.cosine,
            "how": result.how,
        },
        "self_test": {"pictures": names, "how": golden.how},
    }


def header(described: dict[str, Any], golden: Golden) -> str:
    """model.h: the constants that a sample in C++ needs."""
    given, (output, *_) = described["input"], described["outputs"]
    shape = " x ".join(map(str, output["shape"]))
    height, width = given["size"]
    to_height, to_width = given["resize"]
    names = ", ".join(quoted(name) for name in described["labels"])
    mean, std = (
        ", ".join(f"{255 * value:.9g}f" if value else "0" for value in given[each])
        for each in ("mean", "std")
    )
    return f"""// What this folder's model takes and gives; written by edgevit.
#pragma once
#include <cstddef>
#include <string>
#include <vector>

static const char *const FILE_NAME = {quoted(described["file"])};
static const char *const HOW = {quoted(golden.how)};
constexpr int WIDTH = {width}, HEIGHT = {height}, CHANNELS = {len(given["mean"])};
constexpr int RESIZE_WIDTH = {to_width}, RESIZE_HEIGHT = {to_height};
constexpr bool SQUASH = {str(given["crop_mode"] == "squash").lower()};
constexpr bool BGR = {str(given["channels"] == "BGR").lower()};
static const float MEAN[] = {{{mean}}}, STD[] = {{{std}}};  // of 0 to 255
constexpr int NPU_CORES = {described["npu_cores"]}, GOLDEN = {len(golden.outputs)};
constexpr size_t VALUES = {prod(output["shape"])};
constexpr bool CLASSIFIES = {str(bool(output["classes"])).lower()};
constexpr bool EMBEDS = {str(output["kind"] == "embedding").lower()};
static const char *const OUTPUT = {quoted(f"{output['name']} {shape}")};
static const std::vector<std::string> LABELS = {{{names}}};
"""


def quoted(text: str) -> str:
    """A string literal of C++: anything but plain ASCII as octal bytes."""
    plain = set(range(32, 127)) - set(b'"\\?')
    return '"' + "".join(chr(byte) if byte in plain else f"\\{byte:03o}" for byte in text.encode()) + '"'


def write_zip(path: Path, files: dict[str, bytes], root: str) -> None:
    """A .zip of one folder."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(f"{root}/{name}", EPOCH)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, files[name])


def write_folder(where: Path, files: dict[str, bytes]) -> None:
    """A folder, whole or not at all. Raises InputError where something else is there."""
    if where.exists() and not (where.is_dir() and (not any(where.iterdir()) or (where / SUMS).is_file())):
        raise InputError(f"cannot write {where}", "something else is there", "Choose another --out")
    where.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=where.parent, prefix=".bundle-"))
    try:
        for name, content in files.items():
            path = staging / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
        staging.chmod(0o755)
        replace_folder(staging, where)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
