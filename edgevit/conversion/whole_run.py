"""A request from its images to its manifest: what the command line and the library both do."""

from __future__ import annotations

from collections.abc import Sequence

from edgevit.cluster.tasks import Workers
from edgevit.conversion.manifest import finish
from edgevit.conversion.pipeline import Outcome, convert
from edgevit.models import LoadedModel
from edgevit.progress import Progress
from edgevit.request.job import Job
from edgevit.run.folder import open_run
from edgevit.run.manifest import Manifest


def run_job(
    job: Job,
    progress: Progress,
    *,
    live: LoadedModel | None = None,
    command: Sequence[str] = (),
    workers: Workers | None = None,
) -> tuple[Manifest, list[Outcome]]:
    """Convert, measure, write the manifest; `live` is the model where it is at hand, `command` what was typed.

    `workers` share the evaluation of many images.
    """
    with open_run(job.out) as run:
        conversion, outcomes = convert(job, run, progress, live, workers)
        warnings = list(getattr(progress, "warnings", ()))
        return finish(run, conversion, outcomes, warnings=warnings, command=command), outcomes
