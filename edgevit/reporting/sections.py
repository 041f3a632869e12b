"""What a report says about an artefact, section by section; `edgevit.reporting.content` puts it together.

Shares are 0..1, accuracy differences are percentage points, times are milliseconds, sizes bytes, unless a name
says otherwise. Strings may hold anything a user's files hold: renderers escape them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgevit.metrics.classification import Accuracy

Answer = Literal["yes", "no", "can't tell"]


@dataclass(frozen=True)
class Loss(Accuracy):
    """An artefact against the float model; `how` says where its answers were computed."""

    how: str = ""


@dataclass(frozen=True)
class Verdict:
    """Whether an artefact can be shipped: the answer, why in a sentence, and the limit it was held against."""

    answer: Answer
    because: str
    limit: float
    limit_from: str
    images_needed: int | None = None


@dataclass(frozen=True)
class Gain:
    """One thing the conversion bought, with how the number was obtained."""

    value: str
    note: str
    how: str


@dataclass(frozen=True)
class ClassChange:
    """One class: images of it, and how many the float model and the artefact get right."""

    name: str
    n: int
    before: int
    after: int
    lost: int
    won: int


@dataclass(frozen=True)
class Classes:
    """Classes that lost or won most; `same` counts the classes whose images all kept their outcome."""

    worst: tuple[ClassChange, ...]
    best: tuple[ClassChange, ...]
    changed: int
    same: int


@dataclass(frozen=True)
class ChangedImage:
    """An image whose prediction changed; probabilities are each model's own softmax."""

    name: str
    index: int
    kind: Literal["lost", "won", "other"]
    truth: str | None
    before: str
    before_probability: float
    after: str
    after_probability: float
    thumbnail: str | None


@dataclass(frozen=True)
class Changes:
    """Images whose prediction changed: all counted, some shown, the lost ones first."""

    total: int
    n: int
    shown: tuple[ChangedImage, ...]


@dataclass(frozen=True)
class Captioned:
    """A small picture with its caption."""

    caption: str
    thumbnail: str


@dataclass(frozen=True)
class PictureRow:
    """An image whose output changed: its file, in words how, pictures of both answers."""

    name: str
    words: str
    pictures: tuple[Captioned, ...]


@dataclass(frozen=True)
class Pictures:
    """Images whose output changed, where it is no class: all counted, the most changed shown."""

    title: str
    total: int
    n: int
    rows: tuple[PictureRow, ...]


@dataclass(frozen=True)
class Heat:
    """Estimated error (KL in nats per image) that int8 causes at each tensor: rows are blocks, columns kinds.

    `cells` has None where there is no such tensor. `outside` holds tensors of no block. `order` are all tensors as
    they are computed, and whether each stays in 16 bits: what can be shown of a model whose blocks are not known.
    """

    kinds: tuple[str, ...]
    blocks: tuple[int, ...]
    cells: tuple[tuple[float | None, ...], ...]
    outside: tuple[tuple[str, float], ...]
    worst: tuple[tuple[str, float], ...]
    order: tuple[tuple[str, float, bool], ...]
    weights_only: float | None
    activations_only: float | None


@dataclass(frozen=True)
class LayerBar:
    """A layer of the compiled model, in order; `ms` is edgevit's estimate, `cycles` the vendor compiler's."""

    index: int
    op: str
    name: str
    part: str
    on_cpu: bool
    cycles: int
    ms: float | None


@dataclass(frozen=True)
class Latency:
    """An estimated latency of one image with its interval and what it is made of."""

    ms: float
    low: float
    high: float
    parts: tuple[tuple[str, float], ...]
    label: str


@dataclass(frozen=True)
class Placement:
    """Which processor runs each layer of an NPU's artefact; `cpu_ops` are (op, count, kilobytes, why)."""

    cycles: int
    how: str
    traffic_kb: int
    internal_bytes: int
    weight_bytes: int
    layers: tuple[LayerBar, ...]
    cpu_ops: tuple[tuple[str, int, int, str], ...]
    disabled_rules: tuple[str, ...]


@dataclass(frozen=True)
class Delegate:
    """How a CPU delegate splits a graph: pieces, ops (name, count, how many outside the delegate)."""

    partitions: int
    operations: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class Timing:
    """Latencies of one way to run ("4 threads", "NPU cores 0_1"), from `n` runs; a tool may not tell them all."""

    setting: str
    n: int
    p50: float | None
    p90: float | None
    p99: float | None
    mean: float | None
    throughput: float | None
    samples: tuple[float, ...]

    @property
    def typical(self) -> float:
        """The median where it is known, else the mean."""
        return self.p50 if self.p50 is not None else self.mean or 0.0

    @property
    def word(self) -> str:
        """What `typical` is."""
        return "mean" if self.p50 is None else "median"


@dataclass(frozen=True)
class LayerTime:
    """A layer's time in microseconds, as the runtime on the board measured it, beside the compiler's cycles."""

    name: str
    op: str
    target: str
    us: int
    cycles: int


@dataclass(frozen=True)
class Bench:
    """A measurement of an artefact on a machine; `how` is its label."""

    artefact: str
    where: str
    how: str
    machine: str
    best: str
    sweep: tuple[Timing, ...]
    first_ms: float | None
    load_ms: float | None
    peak_rss_mb: float | None
    clocks: str
    loss: Loss | None
    same_as_local: str | None
    versions: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]
    written: str
    slowest: tuple[LayerTime, ...] = ()
    layers_us: int = 0

    @property
    def fastest(self) -> Timing | None:
        """The best setting, None where nothing was timed."""
        named = next((each for each in self.sweep if each.setting == self.best), None)
        return named or min(self.sweep, key=lambda each: each.typical, default=None)


@dataclass(frozen=True)
class Trial:
    """A way to quantize that was tried: what it costs, the points it is expected to lose, 95 % below `upper`.

    `state` is "chosen", "good enough", why it failed, or nothing.
    """

    label: str
    cost: str
    drop: float | None
    upper: float | None
    agreement: float | None
    how: str
    state: str


@dataclass(frozen=True)
class Precision:
    """The precision plan and how it was found."""

    description: str
    sixteen_bit: tuple[str, ...]
    conditioning: tuple[tuple[str, str], ...]
    explanation: str | None
    trials: tuple[Trial, ...]
