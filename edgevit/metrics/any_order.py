"""Answers that are a set: which of two sets' rows are the same, where each comes in an order of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

MOST = 1000  # rows: more are a detector's anchors, which stay where they are, and take a second an image


def matching(found: npt.NDArray[Any], reference: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
    """For each row of a reference [rows, values] the place of its row in what was found, one each.

    The assignment with the least absolute differences in sum, as DETR matches queries with objects (Carion et al.,
    2020). Rows stay in their order where no other is nearer, or where one is not finite.
    """
    if len(reference) > MOST or not (np.isfinite(found).all() and np.isfinite(reference).all()):
        return np.arange(len(reference))
    costs = cdist(reference, found, "cityblock")
    if (costs.diagonal() <= costs.min(1)).all():
        return np.arange(len(reference))
    places: npt.NDArray[np.intp] = linear_sum_assignment(costs)[1]
    return places


def in_order(
    parts: Mapping[int, npt.NDArray[Any]], found: npt.NDArray[Any], reference: npt.NDArray[Any]
) -> dict[int, npt.NDArray[Any]]:
    """Arrays [n, rows, ...] with each image's rows in a reference's order, told by `matching` of what was `found`
    [n, rows, values] with the `reference`'s."""
    order = np.stack([matching(*pair) for pair in zip(found, reference, strict=True)])
    images = np.arange(len(order))[:, None]
    return {place: part[images, order] for place, part in parts.items()}
