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
SAME = 1e-4


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


def match(
    entries: Mapping[str, Entry], seen: Mapping[str, Range], *, by_range_alone: bool = False
) -> dict[str, list[str]]:
    """The table's names of every planned tensor, by the range both saw.

    Tensors named after a ViT's blocks are looked for in the block; those of any graph `by_range_alone`, which has
    to agree to the last digits then: every tensor of the graph is among `seen`, so the right one is.
    """
    found: dict[str, list[str]] = {name: [] for name in seen}
    tolerance = SAME if by_range_alone else TOLERANCE
    dtypes = (
        ("int8", "float32") if by_range_alone else ("int8",)
    )  # what leaves the model is float32, but int8 before
    for entry in entries.values():
        distances = {
            name: distance(entry.range, span)
            for name, span in seen.items()
            if by_range_alone or near(entry.name, name)
        }
        best = min(distances, key=lambda name: distances[name], default=None)
        if by_range_alone and distances.get(entry.name, tolerance + 1) <= tolerance:
            best = entry.name  # of tensors with one range, as a division by sums of one has, the one so named
        if entry.dtype in dtypes and best is not None and distances[best] <= tolerance:
            found[best].append(entry.name)
    return found


def multiples(
    entries: Mapping[str, Entry], seen: Mapping[str, Range], found: Mapping[str, list[str]]
) -> dict[str, tuple[str, float]]:
    """The table's tensors that are a planned one times a constant, by (its name, the constant).

    A compiler that moves an attention's scale elsewhere stores other scores than the graph's.
    """
    known = {theirs for names in found.values() for theirs in names}
    scaled: dict[str, tuple[str, float]] = {}
    for entry in entries.values():
        if entry.name in known or entry.dtype != "int8":
            continue
        best = min(
            seen, key=lambda name: distance(entry.range, times(seen[name], factor(entry.range, seen[name])))
        )
        constant = factor(entry.range, seen[best])
        same = distance(entry.range, times(seen[best], constant)) <= SAME
        if (
            same and min(map(abs, entry.range)) > 0
        ):  # ranges that begin at zero are all multiples of each other
            scaled[entry.name] = best, constant
    return scaled


def factor(found: Range, expected: Range) -> float:
    """How many times as wide one range is as another."""
    return (found[1] - found[0]) / max(expected[1] - expected[0], 1e-12)


def times(span: Range, constant: float) -> Range:
    """A range times a constant."""
    return span[0] * constant, span[1] * constant


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
    scaled: Mapping[str, tuple[str, float]] | None = None,
) -> str:
    """The table with a plan's ranges and 16-bit tensors in it. Scales are the compiler's business.

    `sixteen_bit_type` is what the toolkit calls the platform's own: float16 or int16. `scaled` are tensors of the
    table that are planned ones times a constant.

    Raises ToolchainError naming planned tensors that the table has not.
    """
    require(found, sixteen_bit)
    entries, lines = read_table(text), text.splitlines()
    wanted_ranges = {theirs: span for name, span in ranges.items() for theirs in found.get(name, ())}
    for theirs, (name, constant) in (scaled or {}).items():
        if name in ranges:
            wanted_ranges[theirs] = times(ranges[name], constant)
    for theirs, span in wanted_ranges.items():
        ends = min(span[0], 0.0), max(span[1], 0.0)
        for line, value in zip(entries[theirs].lines, ends, strict=True):
            lines[line] = NUMBER.sub(rf"\g<head>{value:.12f}", lines[line])
    wanted = [theirs for name in sixteen_bit for theirs in found[name]]
    layers = "".join(f"\n    '{name}': {sixteen_bit_type}" for name in wanted)
    title = lines.index("custom_quantize_layers: {}")
    lines[title] = f"custom_quantize_layers:{layers}" if wanted else lines[title]
    return "\n".join(lines) + "\n"
