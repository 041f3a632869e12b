"""Tables in README.md, from the JSON that the benchmarks write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgevit.files import write_atomically

HEADER = (
    "| board | what | top-1 | lost [95 %] | agrees | cosine | KL | Mcycles | 16-bit tensors | MB | s | peak MB |\n"
    "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
)


def write_table(folder: Path, name: str, results: dict[str, Any]) -> None:
    """Replace what stands between the marks of that name in the README."""
    start, end = f"<!-- table: {name} -->", f"<!-- end of {name} -->"
    readme = folder / "README.md"
    head, _, rest = readme.read_text(encoding="utf-8").partition(start)
    _, _, tail = rest.partition(end)
    rows = [row(key, result) for key, result in results.items()]
    write_atomically(readme, "\n".join([head + start, HEADER, *rows, end]) + tail)


def row(key: str, result: dict[str, Any]) -> str:
    """One line."""
    board, _, name = key.partition(" ")
    found = result["accuracy"]
    cells = [board, name, f"{100 * found['top1']:.2f}"]
    cells += [f"{found['drop_points']:.2f} [{found['drop_low']:.1f}, {found['drop_high']:.1f}]"]
    cells += [f"{100 * found['agreement']:.1f}", f"{found['cosine']:.3f}", f"{found['kl']:.4f}"]
    sixteen_bit = "" if result["sixteen_bit"] is None else str(result["sixteen_bit"])
    cells += [f"{result['cycles'] / 1e6:.2f}", sixteen_bit, f"{result['bytes'] / 1e6:.1f}"]
    cells += [f"{result['seconds']:.0f}", str(result["peak_memory_mb"])]
    return f"| {' | '.join(cells)} |"
