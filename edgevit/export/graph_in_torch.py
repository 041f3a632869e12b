"""An ONNX graph computed by torch, so that its tensors can be watched, rounded and differentiated.

ONNX Runtime is quicker but shows no gradients, and would need a graph of its own for every way of rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper

from edgevit.errors import EdgevitError
from edgevit.export.operands import Tensor
from edgevit.export.operations import OPERATIONS

# Called with a tensor's name and its value, gives what its readers see.
Tap = Callable[[str, Tensor], Tensor]
BATCH = 8
WITH_SETTINGS = ("Resize", "Clip", "Pad")  # operations whose further inputs say how, and are no weights


class Graph:
    """A graph [1, channels, height, width] -> its outputs that torch can run; `weights` are its float constants.

    Raises EdgevitError for an operation that isn't known.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.nodes = [
            (node, {each.name: helper.get_attribute_value(each) for each in node.attribute})
            for node in model.graph.node
        ]
        self.input = model.graph.input[0].name
        self.outputs_named = [each.name for each in model.graph.output]
        # Copies: what onnx gives can't be written to, of which torch warns.
        arrays = {each.name: np.array(numpy_helper.to_array(each)) for each in model.graph.initializer}
        settings = {
            name for node, _ in self.nodes for name in node.input[1:] if node.op_type in WITH_SETTINGS
        }
        self.weights = {
            name: torch.from_numpy(each)
            for name, each in arrays.items()
            if each.dtype == np.float32 and name not in settings
        }
        self.numbers = {name: each for name, each in arrays.items() if name not in self.weights}
        unknown = sorted({node.op_type for node, _ in self.nodes} - set(OPERATIONS))
        if unknown:
            raise EdgevitError(
                "cannot compute the graph step by step",
                f"{unknown[0]} is not among the operations that edgevit knows",
                "Report the model",
            )

    def run(self, image: Tensor, tap: Tap, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """All outputs [values] for one image [channels, height, width]; `weights` replace the graph's own."""
        found = self.values(image.unsqueeze(0), tap, weights)
        return torch.cat([each.reshape(-1) for each in found])

    def values(self, images: Tensor, tap: Tap, weights: Mapping[str, Tensor] | None = None) -> list[Tensor]:
        """Each output for what the graph takes, [1, channels, height, width]."""
        values: dict[str, Any] = {**self.numbers, **self.weights, **(weights or {})}
        values[self.input] = tap(self.input, images)
        for node, attributes in self.nodes:
            given = [values[name] if name else None for name in node.input]
            found = OPERATIONS[node.op_type](given, attributes)
            for name, value in zip(
                node.output, found if isinstance(found, tuple) else (found,), strict=False
            ):
                values[name] = (
                    tap(name, value) if isinstance(value, Tensor) and value.is_floating_point() else value
                )
        return [values[name] for name in self.outputs_named]

    def outputs(self, images: Tensor, tap: Tap, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """Outputs [n, values] for images [n, channels, height, width]; the tap sees batches of each tensor."""
        with torch.inference_mode():
            parts = [self.batch(part, tap, weights) for part in torch.split(images, BATCH)]
        return torch.cat(parts)

    def tensors(self, images: Tensor, names: Collection[str]) -> dict[str, Tensor]:
        """Some tensors of one batch of images [n, channels, height, width], by name: [n, ...]."""
        wanted = frozenset(names)

        def seen(image: Tensor) -> dict[str, Tensor]:
            found: dict[str, Tensor] = {}

            def tap(name: str, value: Tensor) -> Tensor:
                if name in wanted:
                    found[name] = value
                return value

            self.run(image, tap)
            return found

        every: dict[str, Tensor] = torch.func.vmap(seen)(images)
        return every

    def watched(self, images: Tensor, names: Collection[str]) -> Iterator[dict[str, Tensor]]:
        """The same of each of the images, one after another.

        Computed in batches: torch adds up a product of few rows in parts, as many as there are threads.
        """
        for part in torch.split(images, BATCH):
            with torch.inference_mode():
                found = self.tensors(part, names)
            for place in range(len(part)):
                yield {name: value[place] for name, value in found.items()}

    def batch(self, images: Tensor, tap: Tap, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """Outputs [n, values] of one batch."""
        every: Tensor = torch.func.vmap(lambda image: self.run(image, tap, weights))(images)
        return every


def keep(_: str, value: Tensor) -> Tensor:
    """The tap that changes nothing."""
    return value
