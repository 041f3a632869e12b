"""The table in README.md, from results.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from models import MODELS

from edgevit.files import write_atomically

START, END = "<!-- table: written by run.py -->", "<!-- end of table -->"
HEADER = (
    "| model | board | type | Mcycles, plain | edgevit | plain / edgevit | CPU ops, plain | edgevit | est. ms, "
    "plain | edgevit |\n|---|---|---|---:|---:|---:|---:|---:|---:|---:|"
)


def write_table(results: dict[str, Any], readme: Path) -> None:
    """Replace what stands between the two marks of the README."""
    text = readme.read_text(encoding="utf-8")
    head, _, rest = text.partition(START)
    _, _, tail = rest.partition(END)
    names = list(MODELS)
    keys = sorted(results, key=lambda key: (names.index(key.split()[0]), list(results).index(key)))
    rows = [row(key, results[key]) for key in keys]
    parts = [START, HEADER, *rows, "", *remarks(results, keys), "", END]
    write_atomically(readme, head + "\n".join(parts) + tail)


def row(key: str, result: dict[str, Any]) -> str:
    """One line of the table; a build that failed has a dash and a remark under the table."""
    model, board, precision = key.split()
    plain, ours = result["plain"], result["edgevit"]
    ratio = f"{plain['cycles'] / ours['cycles']:.2f}" if "cycles" in plain and "cycles" in ours else ""
    cells = [MODELS[model], board, precision, cycles(plain), cycles(ours), ratio]
    cells += [cpu(plain), cpu(ours), milliseconds(plain), milliseconds(ours)]
    return f"| {' | '.join(cells)} |"


def cycles(side: dict[str, Any]) -> str:
    return f"{side['cycles'] / 1e6:.2f}" if "cycles" in side else "-"


def cpu(side: dict[str, Any]) -> str:
    return str(sum(op["count"] for op in side["cpu_ops"])) if "cpu_ops" in side else "-"


def milliseconds(side: dict[str, Any]) -> str:
    """The estimate with its interval."""
    estimate = side.get("latency")
    if estimate is None:
        return ""
    return f"{estimate['latency_ms']:.1f} [{estimate['low_ms']:.1f}, {estimate['high_ms']:.1f}]"


def remarks(results: dict[str, Any], keys: list[str]) -> list[str]:
    """Why builds failed, what they were built without, what is left on the CPU; equal remarks in one line."""
    found: dict[tuple[str, str], list[str]] = {}
    for key in keys:
        model, board, precision = key.split()
        for text in texts(results[key]):
            found.setdefault((MODELS[model], text), []).append(f"{board} {precision}")
    return [f"- {model}: {text} ({', '.join(where)})." for (model, text), where in found.items()]


def texts(result: dict[str, Any]) -> list[str]:
    """The remarks on one row."""
    found = [f"{side} {result[side]['error']}" for side in ("plain", "edgevit") if "error" in result[side]]
    ours = result["edgevit"]
    if ours.get("disabled_rules"):
        found.append(
            f"edgevit builds without the toolkit's {', '.join(ours['disabled_rules'])}, which dies on it"
        )
    if ours.get("cpu_ops"):
        left = ", ".join(f"{op['count']} {op['op']} ({op['traffic_kb']} KB)" for op in ours["cpu_ops"])
        found.append(f"edgevit leaves on the CPU {left}")
    return found
