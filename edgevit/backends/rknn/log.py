"""Reads the layer table that Rockchip's compiler prints while it builds.

Nothing is skipped: a line between the table's rules that is no row, a gap in the numbering, a second table
that differs or totals that are missing are errors, because a row lost would be a smaller cost. The compiler
prints the model's tensors after the layers, by layer number and op; both lists have to agree.
"""

from __future__ import annotations

import re

from edgevit.errors import ToolchainError
from edgevit.placement.layers import Layer, Placement, Shape

TITLE = "Network Layer Information Table"
TENSORS_TITLE = "Feature Tensor Information Table"
COLUMNS = ("ID", "OpType", "DataType", "Target", "InputShape", "OutputShape", "Cycles(DDR/NPU/Total)")
LAST_COLUMNS = (("RW(KB)", "FullName"), ("SparseRatio", "RW(KB)", "FullName"))

PREFIX = re.compile(r"^D RKNN: \[[0-9:.]+\] ?")
ROW = re.compile(
    r"(?P<index>\d+)\s+(?P<op>\w+)\s+(?P<dtype>[A-Z]+\d*)\s+(?P<target>NPU|CPU)\s+(?P<inputs>\S+)\s+(?P<outputs>\S+)\s+"
    r"(?P<ddr>\d+)/(?P<npu>\d+)/(?P<total>\d+)\s+(?:[\d.]+%\s+)?(?P<traffic>\d+)(?:\s+(?P<name>\S.*?))?\s*"
)
TENSOR = re.compile(r"(\d+)\s+(\w+)\s.*\|\s*0x")
SHAPES = re.compile(r"\(\d+(?:,\d+)*\)(?:,\(\d+(?:,\d+)*\))*(?:,\.\.\.)?|\\")
# Over a million are printed as 1.4e+06.
MEMORY = re.compile(r"Total (Internal|Weight) Memory Size: ([\d.]+(?:e\+\d+)?)KB")


def parse_log(text: str) -> Placement:
    """The layers in a build's log. Raises ToolchainError naming the line it can't account for."""
    lines = [PREFIX.sub("", line) for line in text.splitlines()]
    tables = [_table(lines, start) for start, line in enumerate(lines) if line.strip() == TITLE]
    if not tables:
        raise _unreadable("it is not in the log")
    if any(table != tables[0] for table in tables):
        raise _unreadable(f"the log holds {len(tables)} different ones")
    layers = tables[0]
    _compare_with_tensors(layers, lines)
    memory = {kind: round(float(size) * 1024) for kind, size in MEMORY.findall(text)}
    if set(memory) != {"Internal", "Weight"}:
        raise _unreadable("the memory totals after it are missing")
    return Placement(layers, memory["Internal"], memory["Weight"])


def _table(lines: list[str], title: int) -> tuple[Layer, ...]:
    """Rows between the rule under the header and the next rule."""
    header = tuple(lines[title + 2].split()) if title + 2 < len(lines) else ()
    known = [COLUMNS + last for last in LAST_COLUMNS]
    if header not in known or not _rule(lines[title + 1]):
        raise _unreadable(f"its columns are {' '.join(header) or 'missing'}")
    rows = []
    for line in lines[title + 4 :]:
        if _rule(line):
            break
        rows.append(_row(line))
    else:
        raise _unreadable("it has no end")
    if [row.index for row in rows] != list(range(len(rows))):
        raise _unreadable("its rows are not numbered from 0 without a gap")
    if not rows or rows[0].op != "InputOperator" or rows[-1].op != "OutputOperator":
        raise _unreadable("it does not lead from an input to an output")
    return tuple(rows)


def _row(line: str) -> Layer:
    match = ROW.fullmatch(line.strip())
    if match is None or not all(SHAPES.fullmatch(match[key]) for key in ("inputs", "outputs")):
        raise _unreadable(f"unknown row {line.strip()[:120]!r}")
    return Layer(
        index=int(match["index"]),
        op=match["op"],
        dtype=match["dtype"],
        target=match["target"],
        inputs=_shapes(match["inputs"]),
        inputs_complete="..." not in match["inputs"],
        outputs=_shapes(match["outputs"]),
        cycles_ddr=int(match["ddr"]),
        cycles_npu=int(match["npu"]),
        cycles_total=int(match["total"]),
        traffic_kb=int(match["traffic"]),
        name=match["name"] or "",  # none for what the compiler adds before the first layer
    )


def _compare_with_tensors(layers: tuple[Layer, ...], lines: list[str]) -> None:
    """Every layer that reads a tensor is listed with that tensor, under the same number and op."""
    titles = [number for number, line in enumerate(lines) if line.strip() == TENSORS_TITLE]
    if not titles:
        raise _unreadable("the list of tensors to compare it with is missing")
    readers = {}
    for line in lines[titles[-1] + 4 :]:
        if _rule(line):
            break
        match = TENSOR.match(line.strip())
        if match is None:
            raise _unreadable(f"unknown tensor {line.strip()[:120]!r}")
        readers[int(match[1])] = match[2]
    expected = {row.index: row.op for row in layers if row.op != "InputOperator"}
    if readers != expected:
        odd = sorted(readers.items() ^ expected.items())[0]
        raise _unreadable(f"it and the list of tensors disagree about layer {odd[0]} ({odd[1]})")


def _rule(line: str) -> bool:
    """Whether a line is one of the dashes that enclose a table."""
    return len(line.strip()) > 20 and not line.strip().strip("-+")


def _shapes(text: str) -> tuple[Shape, ...]:
    return tuple(tuple(int(size) for size in shape.split(",")) for shape in re.findall(r"\(([\d,]+)\)", text))


def _unreadable(why: str) -> ToolchainError:
    what = "cannot read the compiler's layer table"
    return ToolchainError(what, why, "Report it with the toolchain's version and the log")
