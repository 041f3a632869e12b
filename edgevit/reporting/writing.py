"""Report files: which formats, under which names, whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from edgevit.errors import InputError
from edgevit.files import write_atomically
from edgevit.reporting import html, markdown
from edgevit.reporting.content import Report

SUFFIXES = {".html": "html", ".htm": "html", ".md": "md", ".markdown": "md", ".json": "json"}
FORMATS = ("html", "md", "json")


def render(report: Report, format_: str) -> str:
    """The report in one of FORMATS."""
    if format_ == "html":
        return html.render(report)
    if format_ == "md":
        return markdown.render(report)
    return json.dumps(report.to_json(), indent=1, ensure_ascii=True) + "\n"


def destinations(out: Path | None, formats: Sequence[str], runs: Sequence[Path]) -> dict[str, Path]:
    """Format to file. Without `out`: report.* in the run's folder, or here for several runs.

    One format is written to `out` as it is named; several share its stem. Raises InputError for a suffix that says
    nothing or something else than the format asked for.
    """
    if out is None:
        folder = runs[0] if len(runs) == 1 else Path()
        return {each: folder / f"report.{each}" for each in formats or ("html",)}
    implied = SUFFIXES.get(out.suffix.lower())
    if out.is_dir():
        return {each: out / f"report.{each}" for each in formats or ("html",)}
    if not formats and implied is None:
        raise InputError(
            f"cannot write {out}",
            f"its suffix {out.suffix!r} names no format" if out.suffix else "it has no suffix",
            "End it in .html, .md or .json, or add --format",
        )
    wanted = list(dict.fromkeys(formats)) or [str(implied)]
    if len(wanted) == 1 and implied in (None, wanted[0]):
        return {wanted[0]: out}
    if len(wanted) == 1:
        raise InputError(
            f"cannot write {out}", f"it is named as {implied}, --format says {wanted[0]}", "Drop one"
        )
    stem = out.with_suffix("") if implied else out
    return {each: stem.with_name(f"{stem.name}.{each}") for each in wanted}


def write(report: Report, files: dict[str, Path]) -> None:
    """Write each format to its file."""
    for format_, path in files.items():
        write_atomically(path, render(report, format_).encode("utf-8", "replace"))
