"""One step of a run as data, and what identifies it: a hash of what went in, of edgevit's code and its tools."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from edgevit.files import sha256_file

# Pixel arrays run to gigabytes: hashing them at every reuse would take longer than the work saved.
MAX_REHASHED_BYTES = 64 * 2**20
# What only reads the results of steps; a test holds this list against the order of imports.
READERS = frozenset(
    {
        *(
            "api.py",
            "bench",
            "bundling",
            "cli",
            "console.py",
            "finetuning",
            "prediction",
            "reporting",
            "sweeping",
            "trying",
        ),
        *("__init__.py", "toolchains/doctor.py"),
    }
)
# Libraries that decide results. An upgrade makes new steps.
TOOLS = (
    *("torch", "torchvision", "timm", "transformers", "numpy", "scipy", "pillow"),
    *("onnx", "onnxscript", "onnxsim", "onnxslim", "onnxruntime"),
)


@dataclass(frozen=True)
class Step:
    """One finished step: its folder, what went in (hashed into `key`), what came out, what it cost."""

    stage: str
    key: str
    folder: Path
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Mapping[str, Any]]
    metrics: Mapping[str, Any]
    seconds: float
    peak_memory_mb: int
    cached: bool

    def path(self, name: str) -> Path:
        """Path of one of the step's files."""
        return self.folder / name

    def to_json(self) -> dict[str, Any]:
        """The record of this step, in its own folder and in the manifest."""
        return {**asdict(self), "folder": self.folder.name}


def step_key(stage: str, inputs: Mapping[str, Any]) -> str:
    """Hex sha256 of a step's name, its inputs, edgevit's code and its tools.

    After a code fix or an upgrade, old results are not reused.
    """
    parts = [stage, inputs, code_fingerprint(), tool_versions()]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@cache
def code_fingerprint() -> str:
    """Hex sha256 over edgevit's own source, without the parts that only read what steps left."""
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*")):
        relative = path.relative_to(package)
        if path.suffix in {".py", ".txt"} and not READERS & {relative.parts[0], str(relative)}:
            digest.update(str(relative).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


@cache
def tool_versions() -> dict[str, str | None]:
    """The installed version of each library that decides results; None for one that isn't there."""

    def installed(name: str) -> str | None:
        try:
            return version(name)
        except PackageNotFoundError:
            return None

    return {name: installed(name) for name in TOOLS}


def read_step(folder: Path, stage: str, key: str) -> Step | None:
    """A cached step if it is whole; None if it is absent or its files are not what was recorded."""
    try:
        record = json.loads((folder / "step.json").read_text(encoding="utf-8"))
        whole = record["key"] == key and all(
            intact(folder / name, expected) for name, expected in record["outputs"].items()
        )
        return Step(**{**record, "stage": stage, "folder": folder, "cached": True}) if whole else None
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        return None


def intact(path: Path, expected: Mapping[str, Any]) -> bool:
    """Whether a file still has its recorded size and, unless it is very large, its recorded content."""
    if not path.is_file() or path.stat().st_size != expected["bytes"]:
        return False
    return bool(expected["bytes"] > MAX_REHASHED_BYTES or sha256_file(path) == expected["sha256"])
