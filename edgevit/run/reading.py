"""Reading a run directory back: its manifest, the arrays of its steps, what was measured on boards later."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgevit.errors import InputError
from edgevit.run.manifest import MANIFEST, Manifest, StepRecord, read_manifest
from edgevit.run.measurement import Measurement, read_measurements
from edgevit.run.results import Result

REPORTS = {".html", ".md", ".png", ".svg", ".pdf", ".json"}  # of a run's folder, what may be written again


@dataclass(frozen=True)
class RunFiles:
    """A run directory as read: `manifest`, and `benches`, what `edgevit bench` left in it.

    `unreadable` says in a line each which bench file could not be read.
    """

    folder: Path
    manifest: Manifest
    benches: tuple[Measurement, ...] = ()
    unreadable: tuple[str, ...] = ()

    @property
    def results(self) -> tuple[Result, ...]:
        """The artefacts, in the order asked for."""
        return self.manifest.results

    def __getitem__(self, key: tuple[str, str]) -> Result:
        """The artefact of a (target, precision). Raises KeyError."""
        return {(each.target, each.precision): each for each in self.results}[key]

    def path_of(self, result: Result) -> Path:
        """An artefact's file."""
        return self.folder / result.artefact

    def matching(self, target: str | None, precision: str | None) -> list[Result]:
        """The artefacts of a target and a type; None: of any."""
        return [
            each
            for each in self.results
            if target in (None, each.target) and precision in (None, each.precision)
        ]

    @property
    def made(self) -> str:
        """The artefacts' names, for a line that says which there are."""
        return ", ".join(each.title for each in self.results) or "nothing"

    def present(self, result: Result, what: str) -> Path:
        """An artefact's file. Raises InputError, beginning with `what`, where it is gone."""
        path = self.path_of(result)
        if not path.is_file():
            fix = "Run edgevit convert again with this --out"
            raise InputError(f"{what} {path}", "the file is gone", fix)
        return path

    def _repr_html_(self) -> str:
        """A table for notebooks."""
        head = "".join(f"<th>{name}</th>" for name in ("target", "type", "top-1", "lost [95 %]", "MB", "how"))
        rows = "".join(
            "<tr>" + "".join(f"<td>{escape(c)}</td>" for c in cells(each)) + "</tr>" for each in self.results
        )
        name = escape(f"{self.manifest.model.name}: {self.folder}")
        return f"<table><caption>{name}</caption><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"

    def kept(self) -> list[Path]:
        """The files that nothing may overwrite: the manifest, artefacts and plans, steps, measurements."""
        made = [path for path in self.folder.iterdir() if path.suffix not in REPORTS]
        deeper = [path for name in ("stages", "bench") for path in (self.folder / name).rglob("*")]
        return [path for path in [*made, *deeper, self.folder / MANIFEST] if path.is_file()]

    def path(self, step: StepRecord | None, name: str) -> Path:
        """A file of a step. Raises LookupError where it is not there."""
        path = self.folder / "stages" / step.folder / name if step else None
        if path is None or not path.is_file():
            raise LookupError(f"{name} of a stage is gone from the run directory")
        return path

    def array(self, step: StepRecord | None, name: str) -> npt.NDArray[Any]:
        """An array of a step, mapped into memory. Raises LookupError where it is missing or damaged."""
        path = self.path(step, name)
        try:
            array: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            raise LookupError(f"{path.parent.name}/{name} is damaged") from None
        return array

    def validation_of(self, step: StepRecord | None) -> StepRecord | None:
        """The validation images that a compile step answered on; None where it answered on none."""
        key = step.inputs.get("validation") if step else None
        return self.manifest.step(key) if isinstance(key, str) else None


def cells(result: Result) -> tuple[str, ...]:
    """One artefact in a row: share of right answers, points lost against float, size."""
    found = result.accuracy
    right = f"{100 * found.top1:.2f} %" if found and found.top1 is not None else ""
    lost = ""
    if found and found.drop_points is not None:
        lost = f"{found.drop_points:.2f} [{found.drop_low:.1f}, {found.drop_high:.1f}]"
    return result.target, result.precision, right, lost, f"{result.bytes / 1e6:.1f}", result.how


def read_run(folder: Path, what: str = "cannot read") -> RunFiles:
    """Read a run directory. Raises InputError, beginning with `what`, where it holds no usable run."""
    folder = folder.parent if folder.name == MANIFEST else folder
    what = f"{what} {folder}"
    if not folder.is_dir():
        raise InputError(
            what, "no such folder" if not folder.exists() else "it is a file", "Give the folder of a run"
        )
    manifest = read_manifest(folder / MANIFEST, what)
    benches, unreadable = read_measurements(folder / "bench")
    return RunFiles(folder, manifest, benches, unreadable)
