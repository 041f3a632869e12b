"""From a float graph to the plan that keeps its predictions at the fewest cycles."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import onnx

from edgevit.export.graph_in_torch import Graph, keep
from edgevit.export.operands import Tensor
from edgevit.outputs.output import CLASS_SCORES, Outputs
from edgevit.progress import QUIET, Progress
from edgevit.quantize.graph.groups import candidate_plans
from edgevit.quantize.graph.rounding import int8_outputs, scaled_effects
from edgevit.quantize.graph.statistics import Ends, collect, extremes
from edgevit.quantize.graph.structure import Structure, computed, structure_of
from edgevit.quantize.mixed_precision import FAKE_IMAGES, Judging, PlannedPrecision, judged
from edgevit.quantize.observers import OBSERVERS, Range, TensorStatistics
from edgevit.quantize.plan import LENIENTLY_MATCHED_IMAGES, PrecisionPlan
from edgevit.targets.profiles import Npu

RANGE_IMAGES = 32
TRIED_OBSERVERS = ("minmax", "percentile", "output-error")


@dataclass(frozen=True)
class Observed:
    """A graph, its tensors' extremes on all calibration images, and the plan by which a backend finds them."""

    graph: Graph
    proto: onnx.ModelProto
    ends: Ends
    plan: PrecisionPlan


def observe(proto: onnx.ModelProto, images: Tensor, progress: Progress = QUIET) -> Observed:
    """Run calibration images [n, channels, height, width] through a graph and note every tensor's extremes.

    Raises EdgevitError for a graph with an operation that isn't known.
    """
    graph, same = Graph(proto), computed(proto)
    names = [name for name, source in same.items() if name == source]
    ends = extremes(graph, names, images, progress)
    count = LENIENTLY_MATCHED_IMAGES
    first = {name: (low[:count], high[:count]) for name, (low, high) in ends.items()}
    plan = PrecisionPlan("int8", ranges=full(ends), calibrated_ranges=full(first), lenient=True)
    return Observed(graph, proto, ends, plan)


def full(ends: Ends) -> dict[str, Range]:
    """The range each tensor needs for all images seen; those that are constant have none."""
    found = {name: (float(low.min()), float(high.max())) for name, (low, high) in ends.items()}
    return {name: span for name, span in found.items() if span[0] < span[1]}


@dataclass(frozen=True)
class Prepared:
    """What a search starts from: everything int8 in the best ranges found, each tensor's effect, what was tried."""

    structure: Structure
    plan: PrecisionPlan
    effects: dict[str, float]
    ranges: dict[str, float]  # KL of everything int8 on held-out images, by how ranges were chosen


def prepare(
    observed: Observed,
    stored: Collection[str],
    images: Tensor,
    *,
    seed: int,
    outputs: Outputs = CLASS_SCORES,
    progress: Progress = QUIET,
) -> Prepared:
    """Choose ranges on calibration images for the tensors that a compiler stores, and estimate what each costs."""
    names = [name for name in observed.plan.ranges if name in stored]
    structure = structure_of(observed.proto, names)
    statistics = collect(
        observed.graph, names, images, observed.ends, seed=seed, outputs=outputs, progress=progress
    )
    held_out = images[-RANGE_IMAGES:]
    expected = observed.graph.outputs(held_out, keep)
    tried: dict[str, tuple[float, dict[str, Range]]] = {}
    for observer in TRIED_OBSERVERS:
        progress.advance(len(tried), len(TRIED_OBSERVERS), f"ranges by {observer}")
        spans = ranges_by(observer, observed.plan.ranges, statistics, structure)
        found = int8_outputs(observed.graph, structure, held_out, spans)
        tried[observer] = outputs.difference(found, expected).kl, spans
    measured, best = min(tried.values(), key=lambda pair: pair[0])
    effects = {name: statistics[name].effect(best[name]) for name in names if name in statistics}
    effects = scaled_effects(structure, effects, measured)
    # Others stay: a compiler may store a multiple of one.
    plan = replace(observed.plan, ranges={**observed.plan.ranges, **best})
    return Prepared(structure, plan, effects, {name: loss for name, (loss, _) in tried.items()})


def ranges_by(
    observer: str,
    everything: Mapping[str, Range],
    statistics: Mapping[str, TensorStatistics],
    structure: Structure,
) -> dict[str, Range]:
    """Ranges by one observer; weights of an attention, the input and the outputs are never cut."""
    spans = {name: everything[name] for name in structure.operations}
    for name, operation in structure.operations.items():
        whole = "Softmax" in operation.kinds or not operation.inputs or not structure.readers[name]
        if name in statistics and not whole:
            low, high = OBSERVERS[observer](statistics[name])
            spans[name] = (low, high) if low < high else spans[name]
    return spans


def find_plan(
    prepared: Prepared,
    observed: Observed,
    images: Tensor,
    npu: Npu,
    judging: Judging,
) -> PlannedPrecision:
    """The cheapest plan that `judging` accepts; `images` are all calibration images."""
    every = observed.graph.outputs(images, keep).numpy()
    few = images[-judging.evaluated :][:FAKE_IMAGES]
    graph, structure, plan = observed.graph, prepared.structure, prepared.plan
    return judged(
        candidate_plans(structure, prepared.effects, npu),
        plan,
        every,
        lambda sixteen_bit: int8_outputs(graph, structure, few, plan.ranges, sixteen_bit).numpy(),
        judging,
    )


def rounding_effects(prepared: Prepared) -> dict[str, float]:
    """What rounding each tensor costs where all of it is int8, KL in nats per image."""
    return {
        name: effect
        for name, effect in prepared.effects.items()
        if name in prepared.structure.operations and prepared.structure.rounded_when_made(name, ())
    }
