"""ONNX Resize in torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from edgevit.errors import EdgevitError
from edgevit.export.operands import Attributes, ints


def resized(given: Sequence[Any], attributes: Attributes) -> Any:
    """Every axis on its own, by a matrix of the weights that ONNX defines for it."""
    value = given[0]
    scales = np.asarray(given[2]).reshape(-1) if len(given) > 2 and given[2] is not None else np.empty(0)
    sizes = ints(given[3]) if len(given) > 3 and given[3] is not None else []
    axes = list(attributes.get("axes", range(value.ndim)))
    for place, axis in enumerate(axes):
        length = value.shape[axis]
        size = sizes[place] if sizes else int(math.floor(length * float(scales[place])))
        factor = float(scales[place]) if len(scales) else size / length
        if size == length and factor == 1:
            continue
        weights = torch.from_numpy(resizing(length, size, factor, attributes))
        value = (value.movedim(axis, -1) @ weights.T).movedim(-1, axis)
    return value


def cubic(distance: npt.NDArray[np.float64], a: float) -> npt.NDArray[np.float64]:
    """The cubic convolution's weight at a distance of up to two (Keys 1981)."""
    near = (a + 2) * distance**3 - (a + 3) * distance**2 + 1
    return np.where(distance <= 1, near, a * (distance**3 - 5 * distance**2 + 8 * distance - 4))


def resizing(length: int, size: int, factor: float, attributes: Attributes) -> npt.NDArray[np.float32]:
    """Weights [size, length] of an axis that is resized (ONNX Resize, opset 19)."""
    mode = attributes.get("mode", b"nearest").decode()
    way = attributes.get("coordinate_transformation_mode", b"half_pixel").decode()
    places = np.arange(size, dtype=np.float64)
    if way == "align_corners":
        places = places * (length - 1) / max(size - 1, 1)
    elif way == "asymmetric":
        places = places / factor
    elif way == "pytorch_half_pixel" and size == 1:
        places = np.zeros(1)
    elif way in ("half_pixel", "pytorch_half_pixel"):
        places = (places + 0.5) / factor - 0.5
    else:
        raise EdgevitError(
            "cannot compute the graph step by step", f"it resizes by {way}", "Report the model"
        )
    found = np.zeros((size, length))
    if mode == "nearest":
        rounding = attributes.get("nearest_mode", b"round_prefer_floor").decode()
        how: dict[str, Callable[[Any], Any]] = {
            "round_prefer_floor": lambda x: np.ceil(x - 0.5),
            "round_prefer_ceil": lambda x: np.floor(x + 0.5),
            "floor": np.floor,
            "ceil": np.ceil,
        }
        chosen = np.clip(how[rounding](places), 0, length - 1).astype(int)
        found[np.arange(size), chosen] = 1
        return found.astype(np.float32)
    below = np.floor(places)
    share = places - below
    if mode == "linear":
        taps = {0: 1 - share, 1: share}
    else:
        a = float(attributes.get("cubic_coeff_a", -0.75))
        taps = {offset: cubic(np.abs(share - offset), a) for offset in (-1, 0, 1, 2)}
    for offset, weight in taps.items():
        np.add.at(found, (np.arange(size), np.clip(below + offset, 0, length - 1).astype(int)), weight)
    return found.astype(np.float32)
