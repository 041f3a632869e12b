"""Reads the table of layers with measured times that Rockchip's runtime gives (RKNN_QUERY_PERF_DETAIL)."""

from __future__ import annotations

import re
from typing import Any

# Columns: ID, OpType, DataType, Target, InputShape, OutputShape, Cycles(DDR/NPU/Total), Time(us); then, any of them
# missing, MacUsage(%), WorkLoad, RW(KB) and FullName, which is op:name.
ROW = re.compile(
    r"\s*(?P<index>\d+)\s+(?P<op>\w+)\s+\w+\s+(?P<target>NPU|CPU|GPU)\s+\S+\s+\S+\s+"
    r"\d+/\d+/(?P<cycles>\d+)\s+(?P<us>\d+)\b(?P<rest>.*)"
)
NAME = re.compile(r"\w+:(?P<name>\S.*)")


def read_layer_times(text: str) -> list[dict[str, Any]]:
    """Its layers in order: `index`, `op`, `target`, `us` (measured), `cycles` (the compiler's), `name`.

    Empty where the text holds no such rows: the format is the vendor's, and changes.
    """
    found = []
    for row in filter(None, map(ROW.match, text.splitlines())):
        name = NAME.search(row["rest"])
        numbers = {key: int(row[key]) for key in ("index", "us", "cycles")}
        found.append(
            {**numbers, "op": row["op"], "target": row["target"], "name": name["name"] if name else ""}
        )
    return found
