"""The tables in README.md, from results.json."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgevit.files import write_atomically

START, END = "<!-- tables: written by run.py -->", "<!-- end of tables -->"
AGREEMENT, COSINE = 0.995, 0.9995  # of a float artefact that is called right
TIE = 0.005  # of the outputs' range: a lead that untrained weights give by chance, and float16 takes away
Row = dict[str, Any]
HEADER = (
    "| model | target | type | | agrees | largest difference | cosine | mended by | CPU ops | Mcycles | s |"
)
RULER = "|---|---|---|---|---:|---:|---:|---|---|---:|---:|"


def good(row: Row) -> bool:
    """Whether a row is an artefact that computes its model; of int8, only that it was made."""
    return "error" not in row and (row.get("precision") == "int8" or right(row))


def right(row: Row) -> bool:
    """Whether a float artefact's outputs are the float model's; a near tie may go either way."""
    agrees = row["agreement"] >= AGREEMENT or row["flipped_margin"] <= TIE
    return bool(agrees and row["cosine"] >= COSINE)


def write_tables(rows: dict[str, Row], readme: Path) -> None:
    """Replace what stands between the two marks of the README."""
    text = readme.read_text(encoding="utf-8")
    head, _, rest = text.partition(START)
    _, _, tail = rest.partition(END)
    named = {
        key: row | dict(zip(("model", "board", "precision"), key.split(), strict=True))
        for key, row in rows.items()
    }
    parts = [START, *summary(list(named.values())), "", *losing(list(named.values())), ""]
    parts += [HEADER, RULER, *(line(named[key]) for key in sorted(named)), "", END]
    write_atomically(readme, head + "\n".join(parts) + tail)


def summary(rows: list[Row]) -> list[str]:
    """One line a target and type: how many builds there are, were made, are right, were mended."""
    found = [
        "| target | type | builds | made | right | mended | with CPU ops |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    kinds = sorted({(row["board"], row["precision"]) for row in rows})
    for board, precision in [*kinds, ("all", "")]:
        own = [
            row for row in rows if board == "all" or (row["board"], row["precision"]) == (board, precision)
        ]
        made = [row for row in own if "error" not in row]
        floats = [row for row in made if row["precision"] == "float"]
        correct = f"{count(floats, right)} of {len(floats)}" if floats else ""
        cells = [board, precision, str(len(own)), str(len(made)), correct]
        cells += [
            str(count(made, lambda row: bool(left_out(row)))),
            str(count(made, lambda row: bool(row.get("cpu_ops")))),
        ]
        found.append(f"| {' | '.join(cells)} |")
    return found


def left_out(row: Row) -> list[str]:
    """What was left out of a build because it broke the model, or because the compiler died of it."""
    return [*row["repaired"], *row["fails"]]


def count(rows: list[Row], holds: Callable[[Row], bool]) -> int:
    return sum(map(holds, rows))


def losing(rows: list[Row]) -> list[str]:
    """Every build that was not made, or that is not right."""
    why = Counter[tuple[str, str]]()
    where: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if "error" in row:
            text = f"not made: {row['error']}"
        elif row["precision"] == "float" and not right(row):
            text = "made, not right"
        else:
            continue
        why[row["model"], text] += 1
        where.setdefault((row["model"], text), []).append(f"{row['board']} {row['precision']}")
    lines = [f"- {model} ({', '.join(where[model, text])}): {text}" for model, text in sorted(why)]
    return ["Builds that were not made, or whose float artefact is not right:", "", *(lines or ["- none"])]


def line(row: Row) -> str:
    """One build."""
    if "error" in row:
        cells = [row["model"], row["board"], row["precision"], "not made", *[""] * 6]
        return f"| {' | '.join(cells)} | {row['seconds']:.0f} |"
    verdict = "" if row["precision"] == "int8" else "right" if right(row) else "WRONG"
    ops = ", ".join(f"{number} {name}" for name, number in sorted(row.get("cpu_ops", {}).items()))
    cycles = f"{row['cycles'] / 1e6:.2f}" if "cycles" in row else ""
    mended = ", ".join(f"without {name}" for name in left_out(row))
    numbers = [f"{100 * row['agreement']:.1f} %", f"{row['largest_difference']:.2g}", f"{row['cosine']:.5f}"]
    cells = [row["model"], row["board"], row["precision"], verdict, *numbers, mended, ops, cycles]
    return f"| {' | '.join(cells)} | {row['seconds']:.0f} |"
