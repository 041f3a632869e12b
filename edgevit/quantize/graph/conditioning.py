"""Exact changes that make a graph fit int8, kept where images they were not fitted on say so.

What `quantize.conditioning` does for a plain ViT, for the residual streams and attentions that a graph has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import onnx
import onnx_ir as ir
import torch

from edgevit.export.graph_in_torch import Graph, keep
from edgevit.export.operands import Tensor
from edgevit.metrics.difference import Difference
from edgevit.outputs.output import Outputs
from edgevit.progress import QUIET, Progress
from edgevit.quantize.conditioning import FEWEST, Transform, for_ranges, images_of_a_half, promising_rotations
from edgevit.quantize.graph import attention
from edgevit.quantize.graph.rounding import int8_outputs
from edgevit.quantize.graph.statistics import collect, extremes
from edgevit.quantize.graph.structure import Structure, computed, structure_of
from edgevit.rewrites.graph.apply import plural, proto_of
from edgevit.rewrites.graph.scales import fold_scales
from edgevit.rewrites.graph.streams import Stream, streams_of
from edgevit.rewrites.graph.turning import before, centre, rotate
from edgevit.rewrites.graph.values import opened

ROWS = 2048  # kept of each tensor, those with the largest norms
ENOUGH = 16  # images of a half for what changes around attentions, which gains less than a stream's rotation

Move = Callable[[ir.Graph, Stream], None]


@dataclass(frozen=True)
class Conditioned:
    """A graph of the same function, and every change tried with its gain."""

    graph: onnx.ModelProto
    steps: tuple[Transform, ...]


def condition_streams(
    proto: onnx.ModelProto, images: Tensor, seed: int, outputs: Outputs, progress: Progress = QUIET
) -> Conditioned:
    """A float graph with its residual streams rotated and centred, where that helps int8.

    `images` [n, channels, height, width] are normalised calibration images; half of those used fit, half evaluate.
    Raises EdgevitError for a graph with an operation that isn't known.
    """
    proto = with_scales_folded(proto)
    names, steps = [name_of(each) for each in streams_of(opened(proto).graph)], list[Transform]()
    for number, name in enumerate(names):
        progress.advance(number, len(names), "conditioning the residual streams")
        found = with_kept(proto, conditioned_stream(proto, name, images, seed, outputs))
        proto, steps = found.graph, [*steps, *found.steps]
    return Conditioned(proto, tuple(steps))


def condition_attentions(
    proto: onnx.ModelProto, images: Tensor, seed: int, outputs: Outputs, progress: Progress = QUIET
) -> Conditioned:
    """A float graph with constants moved out of its attentions, and channels evened out, where that helps int8."""
    return with_kept(proto, conditioned_attentions(proto, images, outputs, progress))


def with_kept(proto: onnx.ModelProto, tried: Iterable[tuple[Transform, onnx.ModelProto]]) -> Conditioned:
    """The graph after the last step that was kept, and every step."""
    steps = list[Transform]()
    for step, found in tried:
        steps.append(step)
        proto = found if step.kept else proto
    return Conditioned(proto, tuple(steps))


# In the order in which they are made, each on what the one before left.
PARTS = {"streams": condition_streams, "attentions": condition_attentions}


def with_scales_folded(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with LayerScale in the layers that it follows: a factor a channel can't be rotated."""
    model = opened(proto)
    return proto_of(model) if fold_scales(model.graph) else proto


def name_of(stream: Stream) -> str:
    """What a stream keeps through every change: what its first norm makes."""
    return str(stream.norms[0].outputs[0].name)


def stream_named(graph: ir.Graph, name: str) -> Stream:
    """The stream of this name; a norm that made an output has a product behind it since."""
    (found,) = [each for each in streams_of(graph) if name_of(each) in (name, before(name))]
    return found


def names_of(proto: onnx.ModelProto, name: str) -> tuple[str, ...]:
    """A stream's tensors in a graph, and what its norms make of them."""
    return stream_named(opened(proto).graph, name).names


def conditioned_stream(
    proto: onnx.ModelProto, name: str, images: Tensor, seed: int, outputs: Outputs
) -> Iterator[tuple[Transform, onnx.ModelProto]]:
    """The best rotation of one stream, then the stream without its mean; each against what was kept before."""
    judge = Judge(proto, images, outputs)
    stream = stream_named(opened(proto).graph, name)
    width, rows, now = stream.width, judge.rows(proto, stream, seed), judge.error(proto, stream.names)
    found = []
    for what, rotation in promising_rotations(rows, width, seed) if rows else ():
        turned = moved(proto, name, partial(rotate, rotation=rotation))
        found.append((judge.error(turned, names_of(turned, name)), what, turned))
    if found:
        after, what, turned = min(found, key=lambda each: each[0].error_score)
        kept = after.error_score < now.error_score
        told = f"residual stream of {width} channels: {what}"
        yield Transform("rotation", told, kept, now, after), turned
        proto, now = (turned, after) if kept else (proto, now)
    if stream_named(opened(proto).graph, name).only_normed:
        centred = moved(proto, name, centre)
        after = judge.error(centred, names_of(centred, name))
        what = f"no mean over the {width} channels of a residual stream"
        yield Transform("centre-stream", what, after.error_score < now.error_score, now, after), centred


def conditioned_attentions(
    proto: onnx.ModelProto, images: Tensor, outputs: Outputs, progress: Progress
) -> Iterator[tuple[Transform, onnx.ModelProto]]:
    """Each move around the attentions, made wherever it can be, against what was kept before."""
    names = attention.tensors_of(proto)
    if not names:
        return
    judge = Judge(proto, torch.cat([images[:ENOUGH], images[ENOUGH:][-ENOUGH:]]), outputs)
    now, seen = judge.error(proto, names), list[attention.Seen]()
    for number, (name, ways) in enumerate(attention.MOVES):
        progress.advance(number, len(attention.MOVES), "conditioning the attentions")
        seen = seen or attention.observe(proto, judge.fit)
        found = []
        for what, move in ways:
            model, count = attention.changed(proto, seen, move)
            if count:
                made = proto_of(model)
                after = judge.error(made, attention.tensors_of(made))
                found.append((after, f"{plural(count, 'attention')}: {what}", made))
        if not found:
            continue
        after, what, made = min(found, key=lambda each: each[0].error_score)
        kept = after.error_score < now.error_score
        yield Transform(name, what, kept, now, after), made
        proto, now, seen = (made, after, []) if kept else (proto, now, seen)


def moved(proto: onnx.ModelProto, name: str, move: Move) -> onnx.ModelProto:
    """A graph with one of its streams changed."""
    model = opened(proto)
    move(model.graph, stream_named(model.graph, name))
    return proto_of(model)


class Judge:
    """Errors of a graph some of whose tensors are int8: ranges by half of the images, errors on the other half."""

    def __init__(self, proto: onnx.ModelProto, images: Tensor, outputs: Outputs) -> None:
        macs = sum(
            layer.rows * layer.inputs * layer.outputs
            for operation in everything(proto).operations.values()
            for layer in operation.layers
        )
        half = images_of_a_half(macs, len(images))
        self.outputs = outputs
        self.fit, self.held_out = images[:half], images[-half:]
        self.expected = Graph(proto).outputs(self.held_out, keep)

    def error(self, proto: onnx.ModelProto, names: Iterable[str]) -> Difference:
        """What rounding some tensors and all weights changes."""
        graph, same = Graph(proto), computed(proto)
        wanted = {same[each] for each in names if each in same}
        ends = extremes(graph, wanted, self.fit[: for_ranges(len(self.fit))])
        spans = {each: (float(low.min()), float(high.max())) for each, (low, high) in ends.items()}
        found = int8_outputs(graph, everything(proto), self.held_out, spans)
        return self.outputs.difference(found, self.expected)

    def rows(self, proto: onnx.ModelProto, stream: Stream, seed: int) -> list[tuple[Tensor, float]]:
        """The largest rows [n, width] of each tensor that is added up, and what an error in it costs."""
        graph = Graph(proto)
        axes = {str(value.name): axis for value, axis in stream.values.items()}
        sums = [
            name for name in axes if name in {output for node, _ in graph.nodes for output in node.output}
        ]
        ends = extremes(graph, sums, self.fit[:FEWEST])
        statistics = collect(graph, sums, self.fit, ends, seed=seed, outputs=self.outputs)
        kept: dict[str, list[Tensor]] = {name: [] for name in statistics}
        for seen in graph.watched(self.fit, kept):
            for name, value in seen.items():
                kept[name].append(largest(value.movedim(axes[name], -1).flatten(0, -2), ROWS // FEWEST))
        return [
            (largest(torch.cat(kept[name]), ROWS), statistics[name].importance)
            for name in kept
            if statistics[name].importance > 0
        ]


def largest(rows: Tensor, count: int) -> Tensor:
    """The rows [n, width] with the largest norms, so many at most."""
    return rows[rows.norm(dim=1).argsort(descending=True)[:count]].clone()


def everything(proto: onnx.ModelProto) -> Structure:
    """The structure of a graph all of whose tensors are stored."""
    return structure_of(proto, frozenset(computed(proto).values()))
