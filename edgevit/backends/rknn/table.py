"""The vendor's table of ranges and types between its two hybrid steps, read and edited.

Its tensors are named by the compiler, which fuses and splits operations as it likes. What a tensor is is told
by its values: the smallest and largest the calibration images gave, which torch gives as well.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from edgevit.errors import ToolchainError

Range = tuple[float, float]

ENTRY = re.compile(r"^    (?P<name>[^\s].*):\s*$")
FIELD = re.compile(r"^        (?P<field>\w+):\s*(?P<value>\S.*)?$")
NUMBER = re.compile(r"^(?P<head>\s+-\s+)(?P<value>[-+.\deE]+)\s*$")
BLOCK = re.compile(r"blocks\.(\d+)\b")
# Both sides compute in float32 in another order; relative to the width of the range.
TOLERANCE = 2e-3


@dataclass(frozen=True)
class Entry:
    """A tensor of the table: its type, its range, the lines that hold the range's ends."""

    name: str
    dtype: str
    range: Range
    lines: tuple[int, int]


def read_table(text: str) -> dict[str, Entry]:
    """Tensors with one range each, by the compiler's name."""
    entries: dict[str, Entry] = {}
    fields: dict[str, str] = {}
    at: dict[str, int] = {}
    name = current = ""
    for number, line in enumerate([*text.splitlines(), "    end:"]):
        if entry := ENTRY.match(line):
            if at.keys() >= {"min", "max"}:
                span = float(fields["min"]), float(fields["max"])
                entries[name] = Entry(name, fields.get("dtype", ""), span, (at["min"], at["max"]))
            name, fields, at = entry["name"].strip("'\""), {}, {}
        elif field := FIELD.match(line):
            current = field["field"]
            if field["value"]:
                fields[current] = field["value"]
        elif (value := NUMBER.match(line)) and current in ("min", "max"):
            at.pop(current, None) if current in fields else at.update({current: number})
            fields[current] = value["value"]
    return entries


def match(entries: Mapping[str, Entry], seen: Mapping[str, Range]) -> dict[str, list[str]]:
    """The table's names of every planned tensor, by the range both saw.

    Raises ToolchainError naming the planned tensors that are not in the table.
    """
    found: dict[str, list[str]] = {name: [] for name in seen}
    for entry in entries.values():
        distances = {
            name: distance(entry.range, span) for name, span in seen.items() if near(entry.name, name)
        }
        best = min(distances, key=lambda name: distances[name], default=None)
        if entry.dtype == "int8" and best is not None and distances[best] <= TOLERANCE:
            found[best].append(entry.name)
    return found


def require(found: Mapping[str, list[str]], planned: Collection[str]) -> None:
    """Raise ToolchainError naming the planned tensors that the table has not."""
    missing = [name for name in planned if not found.get(name)]
    if missing:
        raise ToolchainError(
            "cannot realise the precision plan",
            f"the compiler's table has no tensor with the values of {', '.join(missing)}",
            "Use --recipe vendor-default, and report the model and the toolkit's version",
        )


def distance(found: Range, expected: Range) -> float:
    """The larger difference of both ends, relative to the width; the table's ranges include 0."""
    low, high = min(expected[0], 0.0), max(expected[1], 0.0)
    ends = max(abs(min(found[0], 0.0) - low), abs(max(found[1], 0.0) - high))
    return ends / max(high - low, 1e-12)


def near(compiler_name: str, name: str) -> bool:
    """Whether both belong to one block, or the compiler's to the block after; names outside have none."""
    theirs, ours = BLOCK.search(compiler_name), BLOCK.search(name)
    if theirs is None or ours is None:
        return theirs is None and ours is None or ours is None
    return int(theirs[1]) - int(ours[1]) in (0, 1)


def edit(
    text: str,
    found: Mapping[str, list[str]],
    ranges: Mapping[str, Range],
    sixteen_bit: Collection[str],
    sixteen_bit_type: str | None,
) -> str:
    """The table with a plan's ranges and 16-bit tensors in it. Scales are the compiler's business.

    `sixteen_bit_type` is what the toolkit calls the platform's own: float16 or int16.

    Raises ToolchainError naming planned tensors that the table has not.
    """
    require(found, sixteen_bit)
    entries, lines = read_table(text), text.splitlines()
    for name, span in ranges.items():
        for theirs in found.get(name, ()):
            for line, value in zip(
                entries[theirs].lines, (min(span[0], 0.0), max(span[1], 0.0)), strict=True
            ):
                lines[line] = NUMBER.sub(rf"\g<head>{value:.12f}", lines[line])
    wanted = [theirs for name in sixteen_bit for theirs in found[name]]
    layers = "".join(f"\n    '{name}': {sixteen_bit_type}" for name in wanted)
    title = lines.index("custom_quantize_layers: {}")
    lines[title] = f"custom_quantize_layers:{layers}" if wanted else lines[title]
    return "\n".join(lines) + "\n"
