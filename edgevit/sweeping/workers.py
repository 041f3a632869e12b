"""Who makes a sweep's points: this process, several of this machine, or a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgevit.cluster.machines import machines_if_asked
from edgevit.cluster.tasks import Here, Workers
from edgevit.conversion.pipeline import affordable
from edgevit.errors import InputError
from edgevit.progress import Progress
from edgevit.request.job import file_of, whole_path
from edgevit.sweeping.grid import path
from edgevit.sweeping.spec import FILES, Spec
from edgevit.targets.profiles import load_board


@contextmanager
def workers_for(
    spec: Spec, out: Path, jobs: int | None, scheduler: str | None, local: int | None, progress: Progress
) -> Iterator[Workers]:
    """The workers that were asked for; without a word, as many processes as memory and cores allow.

    Raises InputError where two sorts are asked for, or none can take the work.
    """
    asked = {"--jobs": jobs, "--scheduler": scheduler, "--local": local}
    named = [name for name, value in asked.items() if value is not None]
    if len(named) > 1:
        raise InputError("cannot sweep", f"{' and '.join(named)} say two things", "Give one of them")
    if scheduler is not None or local is not None:
        out.mkdir(parents=True, exist_ok=True)
        boards = [load_board(name) for name in spec.targets]
        with machines_if_asked(boards, files_of(spec), out, scheduler, local, progress) as cluster:
            assert cluster is not None
            yield cluster
        return
    # Compilers, and much else of a conversion, use one core: two points on two cores take 0.75 of the time.
    count = jobs or affordable(spec.size, 2)
    if count == 1:
        yield Here(progress)
        return
    from edgevit.cluster.processes import processes

    with processes(count) as pool:
        yield pool


def by_whole_paths(spec: Spec) -> Spec:
    """The spec with paths that mean the same in every folder and on every machine that shares them."""
    given = {name: Path(value) for name in FILES if (value := getattr(spec, name))}
    whole = {name: str(each.absolute()) for name, each in given.items() if each.exists()}
    return spec.model_copy(update={"models": [whole_path(each) for each in spec.models], **whole})


def files_of(spec: Spec) -> list[Path]:
    """What a sweep reads."""
    models = [file_of(each) for each in spec.models]
    given = [path(getattr(spec, name)) for name in FILES]
    return [each for each in (*models, *given) if each is not None and each.exists()]
