"""What a run made, as typed data: manifest.json, written and read here and nowhere else.

Reports, summaries, `predict` and `bench` take everything from these records. FORMAT changes when a reader of the
last one could no longer read it.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_serializer

from edgevit.errors import InputError
from edgevit.files import read_input, write_atomically
from edgevit.images.preprocessing import Preprocessing
from edgevit.metrics.classification import Accuracy
from edgevit.placement.estimate import Estimate
from edgevit.placement.layers import Placement
from edgevit.targets.profiles import Board, Recipe

MANIFEST = "manifest.json"
FORMAT = 2
AGAIN = "Run edgevit convert again with this --out"


def plain_name(name: str) -> str:
    """A file's own name: it never leads out of the folder it is in. Raises ValueError."""
    if (
        not name
        or name in (".", "..")
        or "/" in name
        or "\0" in name
        or len(name.encode(errors="replace")) > 255
    ):
        raise ValueError("is not the plain name of a file")
    return name


def finite(number: float) -> float:
    """A number that can be drawn and compared. Raises ValueError."""
    if not math.isfinite(number):
        raise ValueError("is not a finite number")
    return number


def whole(accuracy: Accuracy) -> Accuracy:
    """An accuracy with finite figures, and with all of those that need labels or none. Raises ValueError."""
    values = accuracy.to_json()
    if accuracy.n < 1 or not all(math.isfinite(each) for each in values.values() if each is not None):
        raise ValueError("is not a measurement")
    if len({values[name] is None for name in NEED_LABELS}) > 1:
        raise ValueError("has only some of the figures that need labels")
    lost, won = accuracy.lost or 0, accuracy.won or 0
    if lost < 0 or won < 0 or lost + won > accuracy.n:
        raise ValueError("counts more changes than images")
    return accuracy


NEED_LABELS = (
    "top1",
    "top5",
    "reference_top1",
    "reference_top5",
    "drop_points",
    "drop_low",
    "drop_high",
    "lost",
    "won",
)
Measured = Annotated[Accuracy, AfterValidator(whole)]
FileName = Annotated[str, AfterValidator(plain_name)]
Real = Annotated[float, AfterValidator(finite)]
Count = Annotated[int, Field(ge=0, lt=2**63)]


class Record(BaseModel):
    """Every field is checked; unknown ones are kept as they are, for newer writers."""

    model_config = ConfigDict(frozen=True, strict=True, extra="allow", ser_json_inf_nan="constants")


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


class ModelRecord(Record):
    """The model as it was loaded; `key` is the step that identifies it, `files` the sha256 of
    the user's files by their names."""

    name: str
    source: str
    num_classes: Count
    key: str = ""
    preprocessing: Preprocessing
    parameters: Count
    canonical: bool = False
    conditionable: bool = False
    parity: Real | None = None
    labels: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    files: dict[str, str] = Field(default_factory=dict)


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


class RewriteRecord(Record):
    """What an exact rewrite did."""

    name: str
    what: str
    changed: bool = True


class Plan(Record):
    """The precision plan in short: tensors kept at 16 bits, and how many ranges edgevit chose."""

    precision: str
    sixteen_bit: tuple[str, ...] = ()
    ranges: Count = 0


class Trial(Record):
    """A plan or a way to quantize that was measured; which fields are known depends on who measured."""

    label: str | None = None
    added: str | None = None
    how: str | None = None
    cycles: Real | None = None
    latency_ms: Real | None = None
    latency_ratio: Real | None = None
    points: float | None = None
    upper: float | None = None
    agreement: float | None = None
    accepted: bool | None = None
    failure: str | None = None


class Search(Record):
    """How a plan, or a way to quantize, was chosen; `met` is whether it was shown to keep the target."""

    sentence: str
    chosen: Trial = Trial()
    tried: tuple[Trial, ...] = ()
    met: bool = True


class Errors(Record):
    """Distance of an int8 model to the float one on held-out images; KL in nats."""

    kl: float


class TransformRecord(Record):
    """A function-preserving transform tried for int8, with the errors before and after it."""

    name: str
    what: str = ""
    kept: bool = True
    before: Errors
    after: Errors


class Diagnosis(Record):
    """Why int8 is hard for a model: KL in nats an image by tensor and by kind, massive activations in words."""

    words: str | None = None
    effects: dict[str, float] = Field(default_factory=dict)
    weights_only_kl: float | None = None
    activations_only_kl: float | None = None
    conditioning: tuple[TransformRecord, ...] = ()


class Details(Record):
    """What the compiler told: an NPU's layers, or the pieces that a delegate split the graph into."""

    placement: Placement | None = None
    disabled_rules: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    partitions: Count | None = None
    operations: dict[str, int] = Field(default_factory=dict)
    outside: dict[str, int] = Field(default_factory=dict)

    @field_serializer("placement")
    def totals_included(self, placement: Placement | None) -> dict[str, Any] | None:
        """Layers with their totals, for readers of the JSON."""
        return None if placement is None else placement.to_json()


class Result(Record):
    """One artefact: where it is for, its file, how it was measured, and what it lost.

    `step` and `export` are the keys of the steps that compiled it and that exported its graph. `preprocessing` is
    how this artefact's images are prepared, whatever the original model's was.
    """

    target: str
    precision: str
    artefact: FileName
    sha256: str
    bytes: Count
    how: str
    step: str
    preprocessing: Preprocessing
    export: str | None = None
    seconds: Real = 0.0
    peak_memory_mb: Count = 0
    cached: bool = False
    accuracy: Measured | None = None
    gate: Literal["met", "missed"] | None = None
    broken: str | None = None
    notes: tuple[str, ...] = ()
    plan: Plan
    search: Search | None = None
    diagnosis: Diagnosis | None = None
    latency: Estimate | None = None
    rewrites: tuple[RewriteRecord, ...] = ()
    parity: Real | None = None
    tools: dict[str, str] = Field(default_factory=dict)
    details: Details = Details()

    @property
    def title(self) -> str:
        """What it is called in tables."""
        return f"{self.target} {self.precision}"


class Failure(Record):
    """A target that could not be made, and why."""

    target: str
    precision: str
    what: str
    why: str
    fix: str

    @property
    def title(self) -> str:
        """What it is called in tables."""
        return f"{self.target} {self.precision}"


class Cost(Record):
    """What the model costs one NPU by its compiler, in cycles an image."""

    target: str
    precision: str
    how: str
    cycles: Count
    bytes: Count
    latency: Estimate | None = None


class LossyDetails(Record):
    """What a lossy step did, and what the user should know of it."""

    what: str
    notes: tuple[str, ...] = ()


class Reduction(Record):
    """The model after one lossy step, against the original."""

    stage: str
    accuracy: Measured | None = None
    parameters: Count = 0
    multiplications: Count = 0
    bytes: Count = 0
    costs: tuple[Cost, ...] = ()
    how: str = "host CPU"
    seconds: Real = 0.0
    cached: bool = False
    details: LossyDetails


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
    return Manifest.model_validate_json(json.dumps(values))


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
    if found < FORMAT:
        raise InputError(what, f"its manifest has format {found}, of an older edgevit", AGAIN)


def first_problem(error: ValidationError) -> str:
    """Where the first wrong value is, and what is wrong with it."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])[:120]
    return f"{where}: {first['msg'].lower().removeprefix('value error, ')}"
