"""What decides an artefact besides its graph: the plan a recipe asks for, the board's own facts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgevit.backends.protocol import Backend
from edgevit.quantize.plan import PrecisionPlan
from edgevit.request.job import Job
from edgevit.targets.profiles import Board


def board_key(board: Board) -> dict[str, Any]:
    """What of a board's profile decides an artefact."""
    return board.model_dump(mode="json", exclude={"name", "source", "clocks", "temperature"})


def plan_of(job: Job, precision: str, backend: Backend) -> PrecisionPlan:
    """The precision plan a recipe asks for, with the options of one backend."""
    return PrecisionPlan(
        precision, {backend.name: backend.options_of(job.recipe.options).model_dump(exclude_none=True)}
    )


def existing(path: Path) -> Path | None:
    """The path if there is such a file."""
    return path if path.exists() else None
