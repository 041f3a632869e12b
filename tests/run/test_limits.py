"""A container's limits count, whatever the machine has."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgevit.run import limits


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_max", ".max").replace("_current", ".current")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.mark.parametrize(
    ("files", "room"),
    [
        ({}, None),
        ({"memory_max": "max\n"}, None),
        ({"memory_max": "3000\n", "memory_current": "1000\n"}, 2000),
        ({"memory_max": "3000\n", "memory_current": "4000\n"}, 0),
    ],
)
def test_what_is_used_is_taken_off_the_limit(tmp_path: Path, files: dict[str, str], room: int | None) -> None:
    write(tmp_path, **files)
    assert limits.container_room(tmp_path) == room
    assert limits.usable_memory(tmp_path) <= (limits.usable_memory() if room is None else room)


def test_version_1_of_the_limits_is_read_too(tmp_path: Path) -> None:
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    (tmp_path / "memory" / "memory.usage_in_bytes").write_text("5\n")
    assert limits.container_room(tmp_path) is None
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("105\n")
    assert limits.container_room(tmp_path) == 100


@pytest.mark.parametrize(
    ("text", "most"), [("100000 100000\n", 1), ("50000 100000\n", 1), ("max 100000\n", 10**6)]
)
def test_cores_are_those_of_the_quota_and_the_scheduler(tmp_path: Path, text: str, most: int) -> None:
    write(tmp_path, cpu_max=text)
    assert 1 <= limits.usable_cores(tmp_path) <= most
    assert limits.usable_cores(tmp_path) <= limits.usable_cores(tmp_path / "none")
