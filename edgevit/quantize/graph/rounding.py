"""Int8 of a graph in float arithmetic, rounded where a compiler rounds."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from edgevit.export.graph_in_torch import Graph
from edgevit.export.operands import Tensor
from edgevit.quantize.fake_quantization import fake_quantize, rounded_rows
from edgevit.quantize.graph.structure import Structure

Ranges = Mapping[str, tuple[float, float]]


def int8_outputs(
    graph: Graph, structure: Structure, images: Tensor, ranges: Ranges, sixteen_bit: Collection[str] = ()
) -> Tensor:
    """Outputs [n, classes] with a plan's ranges and 16-bit tensors.

    A 16-bit tensor that only int8 operations read is rounded for them.
    """
    kept = frozenset(sixteen_bit)
    spans = {
        name: span
        for name, span in ranges.items()
        if name in structure.operations and rounds(structure, name, kept)
    }

    def tap(name: str, value: Tensor) -> Tensor:
        return fake_quantize(value, *spans[name]) if name in spans else value

    return graph.outputs(images, tap, rounded_weights(graph, structure, kept))


def rounds(structure: Structure, name: str, sixteen_bit: frozenset[str]) -> bool:
    """Whether what reads a tensor sees it rounded."""
    if structure.rounded_when_made(name, sixteen_bit):
        return True
    readers = structure.readers[name]
    return name in sixteen_bit and bool(readers) and not any(each in sixteen_bit for each in readers)


def rounded_weights(graph: Graph, structure: Structure, sixteen_bit: frozenset[str]) -> dict[str, Tensor]:
    """The weights of int8 layers, rounded by output."""
    rounded = {}
    for name, operation in structure.operations.items():
        if name in sixteen_bit:
            continue
        for layer in operation.layers:
            weight = graph.weights.get(layer.weight)
            if weight is not None:
                rows = weight.movedim(layer.axis, 0)
                flat = rounded_rows(rows.flatten(1)).reshape(rows.shape)
                rounded[layer.weight] = flat.movedim(0, layer.axis).contiguous()
    return rounded


def scaled_effects(structure: Structure, effects: Mapping[str, float], measured: float) -> dict[str, float]:
    """Estimated effects scaled so that all together give what was measured, KL in nats per image."""
    estimate = sum(effects[name] for name in structure.operations if structure.rounded_when_made(name, ()))
    factor = measured / max(estimate, 1e-12)
    return {name: effect * factor for name, effect in effects.items()}
