"""Strings and numbers from files that may hold anything, made fit to be shown."""

from __future__ import annotations

import math

LONGEST = 240
MAX_LINES = 12


def clean(value: object, longest: int = LONGEST) -> str:
    """One printable line: control characters, broken surrogates and bidirectional marks become spaces."""
    text = "" if value is None else str(value)
    text = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * longest]).split())
    if len(text) <= longest:
        return text
    head = longest * 2 // 3
    return f"{text[:head]}\u2026{text[-(longest - head - 1) :]}"


def number(value: object) -> float | None:
    """A finite number, None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def megabytes(size: float) -> str:
    """A file's size in MB."""
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.0f} kB"


def milliseconds(value: float) -> str:
    """Measured milliseconds to three digits."""
    if value >= 100:
        return f"{value:.0f} ms"
    return f"{value:.1f} ms" if value >= 10 else f"{value:.2f} ms"


def two_digits(value: float) -> str:
    """An estimate to two digits."""
    if value >= 10:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def points(value: float) -> str:
    """A limit in percentage points, in words."""
    return f"{value:g} point{'' if value == 1 else 's'}"


def count(value: float) -> str:
    """A large count in millions or thousands."""
    if value >= 1e6:
        return f"{value / 1e6:.2f} M"
    return f"{value / 1e3:.0f} k" if value >= 1e4 else f"{value:.0f}"


def pairs(values: object) -> tuple[tuple[str, str], ...]:
    """A mapping's items as clean strings; nothing for anything else."""
    if not isinstance(values, dict):
        return ()
    return tuple((clean(key), clean(value)) for key, value in values.items() if value is not None)


def lines(values: object) -> tuple[str, ...]:
    """A list's items as clean strings, each once, the first of many; nothing for anything else."""
    if not isinstance(values, list | tuple):
        return ()
    found = tuple(dict.fromkeys(clean(value, 600) for value in values if value))
    if len(found) <= MAX_LINES:
        return found
    return (*found[:MAX_LINES], f"and {len(found) - MAX_LINES} more, in manifest.json")
