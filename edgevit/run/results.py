"""The records of what was made: artefacts, how their plans were found, lossy steps and their costs."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_serializer

from edgevit.images.preprocessing import Preprocessing
from edgevit.placement.estimate import Estimate
from edgevit.placement.layers import Placement
from edgevit.run.fields import Count, FileName, Measured, Real, Record


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
    total_cycles: Real | None = None
    latency_ms: Real | None = None
    latency_ratio: Real | None = None
    points: float | None = None
    upper: float | None = None
    agreement: float | None = None
    accepted: bool | None = None
    failure: str | None = None


class Search(Record):
    """How a plan, or a way to quantize, was chosen; `met` is whether it was shown to keep the target."""

    explanation: str
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
    """Why int8 is hard for a model: KL in nats per image by tensor and by kind, massive activations in words."""

    explanation: str | None = None
    effects: dict[str, float] = Field(default_factory=dict)
    weights_only_kl: float | None = None
    activations_only_kl: float | None = None
    conditioning: tuple[TransformRecord, ...] = ()


class Details(Record):
    """What the compiler told: an NPU's layers, or the pieces that a delegate split the graph into.

    `needs_at_least`: the oldest versions that run it, by what they are of. `takes`: the type of its input, where it
    is not what its format usually takes.
    """

    placement: Placement | None = None
    disabled_rules: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    partitions: Count | None = None
    operations: dict[str, int] = Field(default_factory=dict)
    outside: dict[str, int] = Field(default_factory=dict)
    needs_at_least: dict[str, str] = Field(default_factory=dict)
    takes: str | None = None

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
