"""Which artefacts are measured: of a run, or one file by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgevit.backends.protocol import Backend
from edgevit.backends.registry import backends, by_suffix
from edgevit.bench.connect import Place
from edgevit.errors import InputError
from edgevit.run.manifest import MANIFEST, StepRecord
from edgevit.run.reading import RunFiles, read_run
from edgevit.run.results import Result

WHAT = "cannot measure"


@dataclass(frozen=True)
class Artefact:
    """A file to measure; `run` and `result` are None for one that no run directory knows."""

    path: Path
    run: RunFiles | None = None
    result: Result | None = None

    @property
    def step(self) -> StepRecord | None:
        """The step that compiled it."""
        return self.run.manifest.step(self.result.step) if self.run and self.result else None

    @property
    def tools(self) -> dict[str, str]:
        """Versions of the vendor's tools that made it, where known."""
        return self.result.tools if self.result else {}

    @property
    def backend(self) -> Backend:
        """Whose artefact it is, by its suffix. Raises InputError for a file that is none's."""
        found = by_suffix(self.path)
        if found is None:
            raise InputError(f"{WHAT} {self.path.name}", "it is no artefact of edgevit's", "Check the path")
        return found


def choose(
    what: Path, place: Place, target: str | None = None, precision: str | None = None
) -> list[Artefact]:
    """The artefacts to measure: of a run, all of one target that can run at that place; else the file given.

    Raises InputError where nothing fits, or targets differ and it isn't said which.
    """
    if what.is_dir() or what.name == MANIFEST:
        return of_run(read_run(what, WHAT), place, target, precision)
    if by_suffix(what) is None:
        fix = f"Give a run directory, or a file ending in {', '.join(each.suffix for each in backends())}"
        raise InputError(f"{WHAT} {what}", "it is neither a run nor an artefact", fix)
    if not what.is_file():
        raise InputError(f"{WHAT} {what}", "no such file", "Check the path")
    refuse_foreign([what], place)
    run = read_run(what.parent, WHAT) if (what.parent / MANIFEST).is_file() else None
    results = run.manifest.results if run else ()
    return [Artefact(what, run, next((each for each in results if each.artefact == what.name), None))]


def of_run(run: RunFiles, place: Place, target: str | None, precision: str | None) -> list[Artefact]:
    """A run's artefacts of one target."""
    results = run.manifest.results
    wanted = target or (place.profile if any(each.target == place.profile for each in results) else None)
    found = run.matching(wanted, precision)
    if not found:
        raise InputError(f"{WHAT} {run.folder}", "it made no such artefact", f"Choose from {run.made}")
    if place.address == "host":
        refuse_foreign([Path(each.artefact) for each in found], place)
        found = [each for each in found if not foreign(each.artefact)]
    targets = list(dict.fromkeys(each.target for each in found))
    if len(targets) > 1 and place.address != "host":
        raise InputError(
            f"cannot choose what to measure of {run.folder}",
            f"it has artefacts for {', '.join(targets)}",
            f"Say which: --target {targets[0]}, or profile in boards.toml",
        )
    paths = [run.present(each, WHAT) for each in found]
    return [Artefact(path, run, each) for path, each in zip(paths, found, strict=True)]


def foreign(artefact: Path | str) -> bool:
    """Whether an artefact runs on its device only, not on this machine."""
    backend = by_suffix(artefact)
    return backend is not None and backend.on_board.python_here is None


def refuse_foreign(paths: Sequence[Path], place: Place) -> None:
    """Raise InputError if nothing that is left to measure runs on this machine."""
    if place.address == "host" and all(foreign(path) for path in paths):
        backend = by_suffix(paths[0])
        assert backend is not None
        raise InputError(
            f"{WHAT} {paths[0].name} on this machine",
            f"a {backend.suffix} runs on {backend.device} only",
            "Give the board with --board ssh://user@address",
        )
