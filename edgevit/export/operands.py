"""What operations are given: tensors, and constants that no image decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

Tensor = torch.Tensor
Attributes = Mapping[str, Any]


def ints(value: Any) -> list[int]:
    """A constant of integers, as an array or a tensor."""
    return [int(each) for each in np.asarray(value).reshape(-1)]


def as_tensor(value: Any) -> Tensor:
    """A constant as a tensor; not torch.tensor, which a traced program would hold as an operation."""
    return value if isinstance(value, Tensor) else torch.from_numpy(np.ascontiguousarray(value))


def sides_of(pads: Sequence[int]) -> list[int]:
    """ONNX's borders (those before each axis, then those after) in torch's order: the last axis first."""
    half = len(pads) // 2
    return [pads[axis + half * end] for axis in reversed(range(half)) for end in (0, 1)]
