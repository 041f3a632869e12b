"""The tables in README.md and the curves, from results.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgevit.files import atomic_path, write_atomically

START, END = "<!-- tables: written by run.py -->", "<!-- end of tables -->"
WAYS = ("dropped", "refitted")
# Points of top-1 that were aimed at: (heads, without, with recovery), (size, without, with recovery).
HEAD_GOALS = {"6": (1.5, 1.0), "9": (5.0, 2.5)}
SIZE_GOALS = {"192": (1.5, 0.8), "160": (5.0, 3.0)}


def write_table(results: dict[str, Any], readme: Path) -> None:
    """Replace what stands between the two marks of the README."""
    head, _, rest = readme.read_text(encoding="utf-8").partition(START)
    _, _, tail = rest.partition(END)
    parts = [START, *heads(results), *goals(results), *equal_cycles(results), END]
    write_atomically(readme, head + "\n".join(parts) + tail)


def heads(results: dict[str, Any]) -> list[str]:
    """Methods against numbers of heads."""
    found = parsed(results)
    if not found:
        return []
    counts = sorted({count for count, _, _ in found})
    names = list(dict.fromkeys(name for _, name, _ in found))
    columns = [f"{count} heads, {way}" for count in counts for way in WAYS]
    lines = ["", "Points of top-1 lost [95 %], of 36 heads:", ""]
    lines += [f"| chosen by | {' | '.join(columns)} |", f"|---|{'---:|' * len(columns)}"]
    for name in sorted(names, key=lambda name: name != "edgevit"):
        cells = [lost(found.get((count, name, way))) for count in counts for way in WAYS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def goals(results: dict[str, Any]) -> list[str]:
    """What edgevit reaches, without and with recovery, beside what was aimed at."""
    lines = ["", "Points lost by edgevit [95 %], and what was aimed at:", ""]
    lines += ["| | no gradient step | aim | 10 min recovery | aim |", "|---|---:|---:|---:|---:|"]
    for count, (without, with_) in HEAD_GOALS.items():
        plain = results.get(f"heads {count} edgevit refitted")
        again = results.get(f"recovered heads {count}")
        lines.append(f"| {count} heads gone | {lost(plain)} | {without} | {lost(again)} | {with_} |")
    for size, (without, with_) in SIZE_GOALS.items():
        plain, again = results.get(f"resolution {size}"), results.get(f"recovered resolution {size}")
        lines.append(f"| {size} px | {lost(plain)} | {without} | {lost(again)} | {with_} |")
    return lines


def equal_cycles(results: dict[str, Any]) -> list[str]:
    """Cycles and what they cost in accuracy."""
    points = cycle_points(results)
    if not points:
        return []
    lines = ["", "Cycles on rk3588, int8, after placement rewrites (vendor compiler estimate):", ""]
    lines += ["| model | Mcycles | MB | points lost [95 %] |", "|---|---:|---:|---:|"]
    for name, cycles, size, record in sorted(points, key=lambda point: -point[1]):
        lines.append(f"| {name} | {cycles / 1e6:.3f} | {size / 1e6:.2f} | {lost(record)} |")
    return lines


def parsed(results: dict[str, Any]) -> dict[tuple[int, str, str], Any]:
    """Rows about heads by (count, method, way)."""
    found = {}
    for key, record in results.items():
        if key.startswith("heads "):
            _, count, *name, way = key.split(" ")
            found[int(count), " ".join(name), way] = record
    return found


def cycle_points(results: dict[str, Any]) -> list[tuple[str, int, int, Any]]:
    """(name, cycles, bytes, accuracy row) of each model whose cycles were counted."""
    points = []
    for key, record in results.items():
        if not key.startswith("cycles "):
            continue
        name = key.removeprefix("cycles ")
        accuracy = results.get(f"{name} edgevit refitted" if name.startswith("heads") else name)
        shown = {"heads": "{} heads gone", "resolution": "{} px"}.get(name.split(" ")[0], "whole model")
        points.append((shown.format(name.split(" ")[-1]), record["cycles"], record["bytes"], accuracy))
    return points


def lost(record: dict[str, Any] | None) -> str:
    """Points lost with their interval."""
    if record is None or record["accuracy"] is None:
        return ""
    accuracy = record["accuracy"]
    return f"{accuracy['drop_points']:.1f} [{accuracy['drop_low']:.1f}, {accuracy['drop_high']:.1f}]"


def write_pictures(results: dict[str, Any], folder: Path) -> None:
    """curves.svg: points lost over heads removed, and over cycles."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "edgevit"
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.2))
    found = parsed(results)
    for name in dict.fromkeys(name for _, name, _ in found):
        for way in WAYS:
            points = sorted(
                (count, record["accuracy"]["drop_points"])
                for (count, other, how), record in found.items()
                if (other, how) == (name, way)
            )
            style = "-o" if way == "refitted" else "--x"
            left.plot(*zip(*points, strict=True), style, label=f"{name}, {way}") if points else None
    left.set(
        xlabel="heads removed of 36", ylabel="points of top-1 lost", title="which heads, and least squares"
    )
    points_of = cycle_points(results)
    for kind in ("px", "heads gone"):
        line = sorted(
            (cycles / 1e6, record["accuracy"]["drop_points"])
            for name, cycles, _, record in points_of
            if record and name.endswith(kind)
        )
        if line:
            right.plot(*zip(*line, strict=True), "-o", label="resolution" if kind == "px" else "heads")
    right.set(xlabel="million cycles on rk3588, int8 (vendor compiler estimate)", title="resolution or heads")
    for axes in (left, right):
        if axes.has_data():
            axes.legend(fontsize=7)
    figure.tight_layout()
    with atomic_path(folder / "curves.svg") as staging:
        figure.savefig(staging, metadata={"Date": None})
    pyplot.close(figure)
