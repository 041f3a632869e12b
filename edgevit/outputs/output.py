"""A model's named outputs, and arrays of all of them side by side: one row an image.

Everything between a model and its report hands on rows [n, values], whatever the outputs are; what they mean is
asked here, and answered by their kinds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgevit.metrics.classification import Accuracy, refuse_broken
from edgevit.metrics.difference import Difference
from edgevit.metrics.predicted_loss import PredictedLoss
from edgevit.outputs import detections
from edgevit.outputs.kinds import KINDS, Kind

if TYPE_CHECKING:
    import torch

Rows = npt.NDArray[Any]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Output:
    """One output: its name, its kind (a key of `kinds.KINDS`), its shape for one image; () fits any."""

    name: str
    kind: str
    shape: tuple[int, ...] = ()

    @property
    def means(self) -> Kind:
        """What an output of this kind is compared and told by."""
        return KINDS[self.kind]

    @property
    def size(self) -> int:
        """Values an image."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Outputs:
    """All outputs of a model, in the order in which it gives them; the first is what it is made for."""

    each: tuple[Output, ...]

    @property
    def first(self) -> Output:
        """The output that decides."""
        return self.each[0]

    @property
    def classes(self) -> int | None:
        """How many classes the first output tells apart for a whole image; None where it classifies nothing."""
        return self.first.size if self.first.means.classifies else None

    @property
    def whole(self) -> bool:
        """Whether some output must not be rounded to 8 bits."""
        return any(output.means.whole for output in self.each)

    def split(self, rows: Any) -> list[Any]:
        """Arrays or tensors [n, *shape], one an output, of rows [n, values]."""
        if len(self.each) == 1 and not self.first.shape:
            return [rows]
        parts, start = [], 0
        for output in self.each:
            parts.append(rows[:, start : start + output.size].reshape(len(rows), *output.shape))
            start += output.size
        return parts

    def side_by_side(self, found: Any, reference: Any) -> tuple[Sequence[Any], list[Any]]:
        """Two models' rows on the same images, each split; what is a set comes in the reference's order."""
        ours, theirs = self.split(as_array(found)), self.split(as_array(reference))
        return detections.as_reference(self.each, ours, theirs), theirs

    def difference(self, found: Any, reference: Any) -> Difference:
        """How far rows are from a reference's on the same images, over all outputs."""
        pairs = zip(self.each, *self.side_by_side(found, reference), strict=True)
        apart = [output.means.difference(ours, theirs) for output, ours, theirs in pairs]
        if len(apart) == 1:
            return apart[0]
        return Difference(
            n=apart[0].n,
            agreement=min(each.agreement for each in apart),
            kl=mean([each.kl for each in apart]),
            median_kl=mean([each.median_kl for each in apart]),
            cosine=mean([each.cosine for each in apart]),
        )

    def predict_loss(
        self, found: Any, reference: Any, more: Any = None, *, scale: float | None = None
    ) -> PredictedLoss:
        """What will be lost, estimated without labels: of the output that loses most."""
        from edgevit.metrics.acceptance import provable_drop

        every = [None] * len(self.each) if more is None else self.split(as_array(more))
        losses = [
            output.means.predicted(ours, theirs, others, scale if output.means.classifies else None)
            for output, ours, theirs, others in zip(
                self.each, *self.side_by_side(found, reference), every, strict=True
            )
        ]
        return max(losses, key=provable_drop)

    def expected_drop(self, found: Any, reference: Any) -> float:
        """What a much smaller model is expected to lose, without labels, in the unit of its first output."""
        ours, theirs = (parts[0] for parts in self.side_by_side(found, reference))
        means = self.first.means
        if means.expected_drop is not None:
            return means.expected_drop(ours, theirs)
        return means.predicted(ours, theirs, None, None).points

    def trusted_scale(self, rows: Any, labels: Labels) -> float | None:
        """How far the model's probabilities are to be trusted, where its first output has any."""
        from edgevit.metrics.confidence import trusted_scale

        return trusted_scale(self.split(as_array(rows))[0], labels) if self.first.means.classifies else None

    def sampled(self, rows: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """A scalar of rows [n, values] whose squared gradients estimate what an error costs, in `difference`'s kl.

        The Fisher information's: log p(y), y drawn from the model's own prediction, or what stands for it.
        """
        parts = self.split(rows)
        total = sum(
            output.means.sampled(part, generator) for output, part in zip(self.each, parts, strict=True)
        )
        result: torch.Tensor = total / math.sqrt(len(parts))
        return result

    def compare(self, found: Rows, reference: Rows, labels: Labels | None) -> Accuracy:
        """What an artefact lost: of the first output, with the others' figures beside it."""
        refuse_broken(found, reference)
        ours, theirs = self.side_by_side(found, reference)
        told = [
            output.means.compare(a, b, labels if output is self.first else None)
            for output, a, b in zip(self.each, ours, theirs, strict=True)
        ]
        if (places := detections.places_of(self.each)) is not None and places[0] == 0:
            boxes, scores = ((ours[place], theirs[place]) for place in places)
            told[0] = detections.compare(told[0], scores, boxes)
        others = {output.name: each.to_json() for output, each in zip(self.each[1:], told[1:], strict=True)}
        return replace(told[0], kind=self.first.kind, others=others)

    def to_json(self) -> list[dict[str, Any]]:
        """Plain values for the manifest."""
        return [asdict(output) for output in self.each]


# A classifier's, of any number of classes.
CLASS_SCORES = Outputs((Output("logits", "logits"),))


def outputs_from(values: Sequence[Any]) -> Outputs:
    """The outputs that `to_json` wrote, or of a manifest's records."""
    plain = [value if isinstance(value, dict) else value.model_dump() for value in values]
    return Outputs(tuple(Output(each["name"], each["kind"], tuple(each["shape"])) for each in plain))


def as_array(rows: Any) -> Rows:
    """Rows as a numpy array."""
    detached: Any = getattr(rows, "detach", lambda: rows)()
    return np.asarray(detached)


def mean(values: Sequence[float]) -> float:
    """Of a few numbers."""
    return sum(values) / len(values)
