"""What a run made, as typed data: manifest.json, written and read here and nowhere else.

Reports, summaries, `predict` and `bench` take everything from these records. FORMAT changes when a reader of the
last one could no longer read it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError, field_validator

from edgevit.errors import InputError
from edgevit.files import read_input, write_atomically
from edgevit.images.preprocessing import Preprocessing
from edgevit.outputs.kinds import KINDS
from edgevit.outputs.output import CLASS_SCORES, Outputs, outputs_from
from edgevit.run.fields import Count, FileName, Real, Record, first_problem
from edgevit.run.results import Cost, Failure, Reduction, Result
from edgevit.targets.profiles import Board, Recipe

MANIFEST = "manifest.json"
FORMAT, OLDEST = 3, 2
AGAIN = "Run edgevit convert again with this --out"


class Output(Record):
    """A file of a step."""

    sha256: str
    bytes: Count


class StepRecord(Record):
    """One step: its name and content key, its folder in the run's `stages`, what went in and came out."""

    stage: str
    key: str
    folder: FileName
    inputs: dict[str, Any] = Field(default_factory=dict)
    outputs: dict[str, Output] = Field(default_factory=dict)
    metrics: dict[str, Any] = Field(default_factory=dict)
    seconds: Real = 0.0
    peak_memory_mb: Count = 0
    cached: bool = False


def known_kind(kind: str) -> str:
    """A kind of output that there is. Raises ValueError."""
    if kind not in KINDS:
        raise ValueError(f"there is no kind of output {kind}")
    return kind


class OutputRecord(Record):
    """One of a model's outputs: its name, its kind, its shape for one image; () fits any."""

    name: str
    kind: Annotated[str, AfterValidator(known_kind)]
    shape: tuple[Count, ...] = ()


class ModelRecord(Record):
    """The model as it was loaded; `key` is the step that identifies it, `files` the sha256 of
    the user's files by their names."""

    name: str
    source: str
    num_classes: Count | None
    outputs: tuple[OutputRecord, ...] = ()
    key: str = ""
    preprocessing: Preprocessing
    preprocessing_from: str = ""
    parameters: Count
    multiplications: Count | None = None
    canonical: bool = False
    conditionable: bool = False
    parity: Real | None = None
    labels: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    files: dict[str, str] = Field(default_factory=dict)

    @property
    def gives(self) -> Outputs:
        """What the model gives; runs of before there were kinds are of classifiers."""
        return outputs_from(self.outputs) if self.outputs else CLASS_SCORES


class PreprocessingCheck(Record):
    """Whether another usual way to prepare images suits the model better: tried on `n` images; `warning` says what
    to do where one does."""

    n: Count
    labelled: bool = False
    tried: tuple[dict[str, Any], ...] = ()
    warning: str | None = None


class ImagesRecord(Record):
    """The images of one role; `key` is the step that holds their pixels, `sha256` identifies the files."""

    n: Count
    key: str
    sha256: str = ""
    labelled: bool = False
    class_names: tuple[str, ...] | None = None
    skipped: tuple[tuple[str, str], ...] = ()


class Images(Record):
    """The images a run was given; None where it was given none."""

    calibration: ImagesRecord | None = None
    validation: ImagesRecord | None = None


class Configuration(Record):
    """What was asked for, resolved."""

    model: str
    weights: str | None = None
    calibration: str | None = None
    validation: str | None = None
    calibration_images: Count | None = None
    validation_images: Count | None = None
    targets: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ()
    recipe: str = ""
    without: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    normalize: bool = False
    max_drop: Real | None = None
    seed: Count = 0


class Host(Record):
    """The machine that the numbers were made on."""

    system: str = ""
    cpu: str = ""
    cores: Count | None = None
    memory_mb: Count | None = None
    python: str = ""


class Manifest(Record):
    """Everything that one conversion did."""

    format: int = FORMAT
    edgevit: str
    written: str
    command: tuple[str, ...] = ()
    configuration: Configuration
    model: ModelRecord
    images: Images = Images()
    preprocessing: PreprocessingCheck | None = None
    boards: dict[str, Board] = Field(default_factory=dict)
    recipe: Recipe | None = None
    host: Host = Host()
    versions: dict[str, str | None] = Field(default_factory=dict)
    stages: tuple[StepRecord, ...] = ()
    seconds: Real = 0.0
    peak_memory_mb: Count = 0
    costs: tuple[Cost, ...] = ()
    reductions: tuple[Reduction, ...] = ()
    results: tuple[Result, ...] = ()
    failures: tuple[Failure, ...] = ()
    warnings: tuple[str, ...] = ()

    @field_validator("results")
    @classmethod
    def each_once(cls, results: tuple[Result, ...]) -> tuple[Result, ...]:
        """One result for a target and type. Raises ValueError."""
        titles = [each.title for each in results]
        if len(set(titles)) < len(titles):
            raise ValueError("has two results for one target and type")
        return results

    def step(self, key: str | None) -> StepRecord | None:
        """The record of the step with this content key."""
        return next((each for each in self.stages if key and each.key == key), None)

    def stage(self, name: str) -> StepRecord | None:
        """The record of the first step of this name."""
        return next((each for each in self.stages if each.stage == name), None)

    def to_json(self) -> dict[str, Any]:
        """Plain values, as they are written."""
        return dict(json.loads(self.model_dump_json()))

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Class names by index where the run knows them: the model's labels, else the validation folders'."""
        folders = self.images.validation.class_names if self.images.validation else None
        found = (self.model.labels, folders)
        return next((each for each in found if each and len(each) == self.model.num_classes), None)


def manifest_of(values: dict[str, Any]) -> Manifest:
    """The typed manifest of plain values."""
    # A path that is no UTF-8 is shown with a question mark.
    return Manifest.model_validate_json(json.dumps(values, ensure_ascii=False).encode(errors="replace"))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write a run's manifest.json, whole or not at all."""
    write_atomically(folder / MANIFEST, json.dumps(manifest.to_json(), indent=1))


def read_manifest(path: Path, what: str) -> Manifest:
    """Read a manifest. Raises InputError, beginning with `what`, that names the first field that is wrong."""
    if not path.exists():
        raise InputError(what, f"it has no {MANIFEST}", "Give the folder of a finished run")
    content = read_input(path, f"{what}: {MANIFEST}")
    refuse_other_format(content, what)
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        raise InputError(what, f"{MANIFEST}: {first_problem(error)}", AGAIN) from None


def refuse_other_format(content: bytes, what: str) -> None:
    """Raise InputError for what isn't JSON, isn't a manifest, or is one of another edgevit."""
    try:
        values = json.loads(content)
    except (ValueError, RecursionError):
        raise InputError(what, f"{MANIFEST} is not JSON", AGAIN) from None
    found = values.get("format") if isinstance(values, dict) else None
    if not isinstance(found, int) or isinstance(found, bool):
        raise InputError(what, f"{MANIFEST} is not one of edgevit's", AGAIN)
    if found > FORMAT:
        raise InputError(
            what, f"its manifest has format {found}, this edgevit knows {FORMAT}", "Update edgevit"
        )
    if found < OLDEST:
        raise InputError(what, f"its manifest has format {found}, of an older edgevit", AGAIN)
