"""Imports point one way, and vendor packages stay in their own environments."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import edgevit

PACKAGE = Path(edgevit.__file__).parent
# A module may import from its own row and the rows above it.
ORDER = [
    {"any_threads", "errors", "progress"},
    {"console", "files", "torch_setup"},
    {"images", "metrics", "targets"},
    {"outputs"},
    {"models", "placement"},
    {"run"},
    {"demo", "export", "rewrites", "toolchains"},
    {"compression", "quantize"},
    {"backends", "training"},
    {"cluster", "request"},
    {"conversion"},
    {"bench", "bundling", "finetuning", "prediction", "reporting"},
    {"sweeping", "trying"},
    {"api"},
    {"cli"},
]
VENDOR = {"rknn", "litert_torch", "ai_edge_litert", "ai_edge_quantizer", "tensorflow"}


def imports_of(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def row(name: str) -> int:
    return next(index for index, names in enumerate(ORDER) if name in names)


def modules() -> list[tuple[str, Path]]:
    found = []
    for path in PACKAGE.rglob("*.py"):
        top = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if top not in {"__init__", "__main__"}:
            found.append((top, path))
    return found


def test_imports_point_one_way() -> None:
    wrong = []
    for top, path in modules():
        for name in imports_of(path):
            parts = name.split(".")
            if (
                parts[0] == "edgevit"
                and len(parts) > 1
                and not parts[1].startswith("_")
                and row(parts[1]) > row(top)
            ):
                wrong.append(f"{path.relative_to(PACKAGE)} imports {name}")
    assert wrong == []


def test_only_workers_import_vendor_packages() -> None:
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for _, path in modules()
        for name in imports_of(path)
        if name.split(".")[0] in VENDOR and "workers" not in path.parts and path.name != "runtime.py"
    ]
    assert wrong == []


def test_reading_the_registry_loads_no_heavy_library() -> None:
    heavy = ("torch", "onnx", "onnxruntime", "scipy")
    code = f"import sys, edgevit.backends.registry; print([each for each in {heavy} if each in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
