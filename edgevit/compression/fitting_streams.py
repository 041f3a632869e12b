"""Token states of a student and its teacher, side by side through the blocks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from edgevit.compression.blocks import BATCH, in_batches, stem
from edgevit.compression.calibration_split import Split

# Patch tokens of an image that enter a fit.
PATCHES = 64


@dataclass
class Streams:
    """Token states of student and teacher, of fitted then held-out images, advanced block by block."""

    student: torch.Tensor
    teacher: torch.Tensor
    fitted: int
    prefix: int

    def lacking(self, part: slice) -> torch.Tensor:
        """What the student's tokens lack to be the teacher's, [n, tokens, dim]."""
        return self.teacher[part] - self.student[part]

    def slices(self) -> Iterator[tuple[slice, bool]]:
        """Batches, and whether they are fitted on."""
        for start, end, fitted in ((0, self.fitted, True), (self.fitted, len(self.student), False)):
            for first in range(start, end, BATCH):
                yield slice(first, min(first + BATCH, end)), fitted

    def sample(self, part: slice) -> torch.Tensor:
        """Indices of the prefix tokens and of some patches: neighbours say much the same."""
        patches = self.student.shape[1] - self.prefix
        generator = torch.Generator().manual_seed(part.start)
        chosen = torch.randperm(patches, generator=generator)[:PATCHES] + self.prefix
        return torch.cat([torch.arange(self.prefix), chosen.sort().values])

    def weights_of_sample(self, weights: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Weights [tokens] of the sampled tokens, so that sampled patches stand for all."""
        counted = weights[tokens]
        counted[self.prefix :] *= (len(weights) - self.prefix) / max(1, len(tokens) - self.prefix)
        return counted


def start_streams(student: Any, teacher: Any, split: Split) -> Streams:
    """States entering the first block."""
    images = torch.cat([split.fit, split.check])
    ours, theirs = (in_batches(lambda b, v=vit: stem(v, b), images) for vit in (student, teacher))
    return Streams(ours, theirs, len(split.fit), student.num_prefix_tokens)
