"""Reading a run directory back: its manifest, the arrays of its stages, what was measured on boards later."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgevit.errors import InputError
from edgevit.files import read_input

MANIFEST = "manifest.json"
FORMAT = 1
REPORTS = {".html", ".md", ".png", ".svg", ".pdf", ".json"}  # of a run's folder, what may be written again


@dataclass(frozen=True)
class RunFiles:
    """A run directory as read: `manifest`, and `benches`, the JSON files that `edgevit bench` left in it.

    `unreadable` says in a line each which bench file could not be read.
    """

    folder: Path
    manifest: dict[str, Any]
    benches: tuple[dict[str, Any], ...] = ()
    unreadable: tuple[str, ...] = ()

    def kept(self) -> list[Path]:
        """The files that nothing may overwrite: the manifest, artefacts and plans, stages, measurements."""
        made = [path for path in self.folder.iterdir() if path.suffix not in REPORTS]
        deeper = [path for name in ("stages", "bench") for path in (self.folder / name).rglob("*")]
        return [path for path in [*made, *deeper, self.folder / MANIFEST] if path.is_file()]

    def stage(self, name: str) -> dict[str, Any] | None:
        """The manifest's record of a stage, None if there is none."""
        return next((each for each in stages(self.manifest) if each.get("stage") == name), None)

    def stage_by_key(self, key: object) -> dict[str, Any] | None:
        """The record of the stage with this content key."""
        return next((each for each in stages(self.manifest) if key and each.get("key") == key), None)

    def path(self, stage: dict[str, Any] | None, name: str) -> Path:
        """A file of a stage. Raises LookupError where it is not there; never leaves the run directory."""
        folder = Path(str(stage.get("folder", ""))).name if stage else ""
        path = self.folder / "stages" / folder / name
        if not folder or not path.is_file():
            raise LookupError(f"{name} of a stage is gone from the run directory")
        return path

    def array(self, stage: dict[str, Any] | None, name: str) -> npt.NDArray[Any]:
        """An array of a stage, mapped into memory. Raises LookupError where it is missing or damaged."""
        path = self.path(stage, name)
        try:
            array: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            raise LookupError(f"{path.parent.name}/{name} is damaged") from None
        return array


def stages(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """The stages' records."""
    found = manifest.get("stages")
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def as_dict(value: object) -> dict[str, Any]:
    """A JSON object; an empty one in place of anything else."""
    return value if isinstance(value, dict) else {}


def read_run(folder: Path, what: str = "cannot read") -> RunFiles:
    """Read a run directory. Raises InputError, beginning with `what`, where it holds no usable run."""
    folder = folder.parent if folder.name == MANIFEST else folder
    what = f"{what} {folder}"
    if not folder.is_dir():
        raise InputError(
            what, "no such folder" if not folder.exists() else "it is a file", "Give the folder of a run"
        )
    manifest = read_manifest(folder / MANIFEST, what)
    benches, unreadable = read_benches(folder / "bench")
    return RunFiles(folder, manifest, tuple(benches), tuple(unreadable))


def read_manifest(path: Path, what: str) -> dict[str, Any]:
    """A manifest that is usable at least in its outline. Raises InputError."""
    again = "Run edgevit convert again with this --out"
    try:
        if not path.exists():
            raise InputError(what, f"it has no {MANIFEST}", "Give the folder of a finished run")
        manifest = json.loads(read_input(path, f"{what}: {MANIFEST}"))
    except (ValueError, RecursionError):
        raise InputError(what, f"{MANIFEST} is not JSON", again) from None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("format"), int):
        raise InputError(what, f"{MANIFEST} is not one of edgevit's", again)
    if manifest["format"] > FORMAT:
        newer = f"its manifest has format {manifest['format']}, this edgevit knows {FORMAT}"
        raise InputError(what, newer, "Update edgevit")
    model, results = manifest.get("model"), manifest.get("results")
    if not isinstance(model, dict) or not isinstance(results, list) or not all(map(usable, results)):
        raise InputError(what, f"{MANIFEST} lacks the model or the results", again)
    return manifest


def usable(result: object) -> bool:
    """Whether a result says at least what it is for."""
    return isinstance(result, dict) and all(
        isinstance(result.get(key), str) for key in ("target", "precision")
    )


def read_benches(folder: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Measurements on boards, by file name, and a line for each file that can't be read."""
    found, unreadable = [], []
    for path in sorted(folder.glob("*.json")):
        try:
            values = json.loads(read_input(path, f"bench/{path.name}"))
        except (InputError, ValueError, RecursionError):
            unreadable.append(f"bench/{path.name} is not JSON")
            continue
        if isinstance(values, dict) and isinstance(values.get("latency", {}), dict):
            found.append({**values, "file": path.name})
        else:
            unreadable.append(f"bench/{path.name} is not a measurement")
    return found, unreadable


def names_of_classes(run: RunFiles) -> tuple[str, ...] | None:
    """Class names by index where the run knows them: the model's own labels, else the validation folders'."""
    model = run.manifest["model"]
    validation = as_dict(as_dict(run.manifest.get("images")).get("validation"))
    for names in (model.get("labels"), validation.get("class_names")):
        if isinstance(names, list) and len(names) == model.get("num_classes"):
            return tuple(str(name) for name in names)
    return None


def step_of(run: RunFiles, result: dict[str, Any]) -> dict[str, Any]:
    """The compile stage that made a result's artefact; empty where the manifest hasn't it."""
    return run.stage(f"{result['target']}-{result['precision']}") or {}


def export_of(run: RunFiles, step: dict[str, Any]) -> dict[str, Any]:
    """The export stage that a compile stage began from; empty where the manifest hasn't it."""
    return run.stage_by_key(as_dict(step.get("inputs")).get("export")) or {}


def preprocessing_of(run: RunFiles, step: dict[str, Any]) -> dict[str, Any]:
    """The preprocessing that an artefact expects: its own where the resolution was changed, else the model's."""
    export = export_of(run, step)
    probe = run.stage_by_key(as_dict(export.get("inputs")).get("images")) or {}
    found = as_dict(probe.get("inputs")).get("preprocessing") or run.manifest["model"].get("preprocessing")
    return found if isinstance(found, dict) else {}
