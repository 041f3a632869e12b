"""Operations that pick and place values by indices, which an image may decide, as ONNX defines them, in torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional

from edgevit.errors import EdgevitError
from edgevit.export.operands import Attributes, Tensor, as_tensor, ints

GRID_MODES = {"linear": "bilinear", "cubic": "bicubic"}  # since opset 20


def sampled(given: Sequence[Any], attributes: Attributes) -> Tensor:
    """GridSample: an image read at any places, as deformable attention does."""
    mode = attributes.get("mode", b"linear").decode()
    return functional.grid_sample(
        given[0],
        given[1],
        mode=GRID_MODES.get(mode, mode),
        padding_mode=attributes.get("padding_mode", b"zeros").decode(),
        align_corners=bool(attributes.get("align_corners", 0)),
    )


def counted_from_front(indices: Tensor, size: int) -> Tensor:
    """Indices of an axis without negative ones, which count from its end."""
    return torch.where(indices < 0, indices + size, indices)


def gathered_elements(given: Sequence[Any], attributes: Attributes) -> Tensor:
    value, axis = as_tensor(given[0]), int(attributes.get("axis", 0))
    return value.gather(axis, counted_from_front(as_tensor(given[1]).long(), value.shape[axis]))


def scattered_elements(given: Sequence[Any], attributes: Attributes) -> Tensor:
    replaces_only(attributes)
    value, axis = as_tensor(given[0]), int(attributes.get("axis", 0))
    return value.scatter(
        axis, counted_from_front(as_tensor(given[1]).long(), value.shape[axis]), as_tensor(given[2])
    )


def scattered(given: Sequence[Any], attributes: Attributes) -> Tensor:
    """ScatterND: values put at places, as an assignment to a part of a tensor is written."""
    replaces_only(attributes)
    places = as_tensor(given[1]).long().unbind(-1)
    return torch.index_put(as_tensor(given[0]), places, as_tensor(given[2]))


def replaces_only(attributes: Attributes) -> None:
    """Raises EdgevitError where values are added to those that are there."""
    if (how := attributes.get("reduction", b"none").decode()) != "none":
        raise EdgevitError(
            "cannot compute the graph step by step",
            f"it scatters by {how}, which edgevit doesn't know",
            "Report the model",
        )


def largest(given: Sequence[Any], attributes: Attributes) -> tuple[Tensor, Tensor]:
    """TopK: values and where they stood."""
    (count,) = ints(given[1])
    found = given[0].topk(count, int(attributes.get("axis", -1)), bool(attributes.get("largest", 1)))
    return found.values, found.indices


def extreme_place(how: Callable[..., Tensor]) -> Callable[[Sequence[Any], Attributes], Tensor]:
    """ArgMax and ArgMin."""
    return lambda given, attributes: how(
        given[0], int(attributes.get("axis", 0)), keepdim=bool(attributes.get("keepdims", 1))
    )


def gathered_anywhere(value: Any, axis: int, chosen: Tensor) -> Tensor:
    """Gather by indices [...] that an image decides."""
    whole, axis = as_tensor(value), axis % value.ndim
    flat = whole.index_select(axis, counted_from_front(chosen.long().reshape(-1), whole.shape[axis]))
    return flat.reshape(*whole.shape[:axis], *chosen.shape, *whole.shape[axis + 1 :])
