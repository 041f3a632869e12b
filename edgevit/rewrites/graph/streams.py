"""Residual streams of a graph: tensors that are added up and that norms over their channels read.

A norm does not notice a rotation of what it reads that keeps the vector of ones, nor the mean over channels (see
`quantize.rotation`). What writes to a stream takes the rotation on its output, what reads it the inverse on its
input; where a constant can't take it, a product of its own stands in between.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import onnx_ir as ir

from edgevit.rewrites.graph.moves import moved_by, source_of
from edgevit.rewrites.graph.values import constant, integer, integers, maker, shape_of

NORM, SUMS = "LayerNormalization", ("Add", "Sub", "Concat")
FACTORS = ("Mul", "Div")  # a norm's shift would be multiplied too
# Of what the stream's own layers multiply: what products in between may cost.
AFFORDABLE = 0.05
Place = tuple[ir.Value, int]  # a value, and the axis of its channels


@dataclass(frozen=True)
class Weight:
    """A node's constant that takes a rotation along `axis`, counted from the end; `norm`: what is read through."""

    node: ir.Node
    number: int
    axis: int
    norm: ir.Node | None = None


@dataclass(frozen=True)
class Use:
    """A value, with its channels' axis, that something reads which can't take a rotation; no node: an output."""

    value: ir.Value
    axis: int
    node: ir.Node | None = None
    number: int = 0
    norm: ir.Node | None = None


@dataclass
class Stream:
    """One stream of `width` channels: its tensors, what its norms make of them, and what a rotation changes."""

    width: int
    values: dict[ir.Value, int] = field(default_factory=dict)
    normed: dict[ir.Value, int] = field(default_factory=dict)
    norms: list[ir.Node] = field(default_factory=list)
    writes: list[Weight] = field(default_factory=list)
    reads: list[Weight] = field(default_factory=list)
    turned: list[Place] = field(default_factory=list)  # comes in from what can't take a rotation
    straightened: list[Use] = field(default_factory=list)

    @property
    def names(self) -> tuple[str, ...]:
        """Its tensors, and what its norms make of them."""
        return tuple(str(each.name) for each in (*self.values, *self.normed))

    @property
    def only_normed(self) -> bool:
        """Whether norms are all that reads it, so that its mean is of no use to anybody."""
        norms = (*(each.norm for each in self.reads), *(each.norm for each in self.straightened))
        return all(norm is not None for norm in norms)


def streams_of(graph: ir.Graph) -> list[Stream]:
    """The streams that can be rotated at a price worth paying, in order."""
    found: list[Stream] = []
    seen: set[ir.Value] = set()
    for node in graph:
        source = node.inputs[0] if is_norm(node) else None
        if source is None or source in seen:
            continue
        stream = grown(source)
        seen |= {source, *stream.values}
        joins = any((sum_of := maker(each, "Add")) and not has_constant(sum_of) for each in stream.values)
        if joins and affordable(stream):
            found.append(stream)
    return found


def is_norm(node: ir.Node) -> bool:
    """Whether a node normalises over channels, the last axis, with constant weights."""
    shape = shape_of(node.inputs[0]) if node.op_type == NORM else None
    return (
        shape is not None
        and integer(node, "axis", -1) % len(shape) == len(shape) - 1
        and all(constant(each) is not None for each in node.inputs[1:])
    )


def grown(seed: ir.Value) -> Stream:
    """The stream that a norm's input belongs to."""
    shape = shape_of(seed)
    assert shape is not None  # is_norm() said so
    stream = Stream(shape[-1])
    queue: deque[Place] = deque([(seed, len(shape) - 1)])
    while queue:
        value, axis = queue.popleft()
        if value not in stream.values:
            stream.values[value] = axis
            queue.extend(comes_in(stream, value, axis))
            queue.extend(goes_out(stream, value, axis, None))
    return stream


def comes_in(stream: Stream, value: ir.Value, axis: int) -> Iterator[Place]:
    """What a value of the stream is made of that belongs to it too; where it begins is noted."""
    node = value.producer()
    written = None if node is None else layer_that_writes(node, value, axis, stream.width)
    if node is None:
        stream.turned.append((value, axis))
    elif written is not None:
        stream.writes += written
    elif node.op_type in SUMS and joins(node, axis, stream.width):
        from_end = axis - len(shape_of(value) or ())
        for number, each in enumerate(node.inputs):
            assert each is not None
            if constant(each) is not None:
                stream.writes.append(Weight(node, number, from_end))
            else:
                yield each, from_end + len(shape_of(each) or ())
    elif (source := source_of(node, value, axis)) is not None:
        yield source
    else:
        stream.turned.append((value, axis))


def goes_out(stream: Stream, value: ir.Value, axis: int, norm: ir.Node | None) -> Iterator[Place]:
    """What reads a value of the stream, or of a norm of it, and belongs to it too; other readers are noted."""
    shape = shape_of(value)
    assert shape is not None
    for use in value.uses():
        node, number = use.node, use.idx
        output = node.outputs[0]
        placed = axis - len(shape) + len(shape_of(output) or ())
        if norm is None and number == 0 and is_norm(node) and axis == len(shape) - 1:
            stream.norms.append(node)
            follow(stream, output, axis, node)
        elif norm is None and node.op_type in SUMS and joins(node, placed, stream.width):
            yield output, placed
        elif (
            number == 0 and (norm is None or node.op_type not in FACTORS) and (places := moved_by(node, axis))
        ):
            yield from places
        elif norm is not None and node.op_type == "Concat" and all_of(norm, node, placed):
            yield output, placed
        elif (weight := layer_that_reads(node, number, axis, len(shape))) is not None:
            stream.reads.append(Weight(node, 1, weight, norm))
        else:
            stream.straightened.append(Use(value, axis, node, number, norm))
    if value.is_graph_output():
        stream.straightened.append(Use(value, axis, norm=norm))


def all_of(norm: ir.Node, node: ir.Node, axis: int) -> bool:
    """Whether all that a concatenation joins is parts of what one norm makes, as a shift of windows has them."""
    rank = len(shape_of(node.outputs[0]) or ())
    if integer(node, "axis", 0) % max(1, rank) == axis:
        return False
    return all(is_part(norm, each, axis) for each in node.inputs)


def is_part(norm: ir.Node, value: ir.Value | None, axis: int) -> bool:
    """Whether a value is rearranged from what a norm makes, its channels on this axis."""
    while value is not norm.outputs[0]:
        node = None if value is None else value.producer()
        if node is None or value is None or node.op_type in FACTORS:
            return False
        if node.op_type == "Concat":
            return all_of(norm, node, axis)
        source = source_of(node, value, axis)
        if source is None:
            return False
        value, axis = source
    return True


def follow(stream: Stream, value: ir.Value, axis: int, norm: ir.Node) -> None:
    """Note who reads what a norm makes, through whatever only moves it or takes means over tokens."""
    if value not in stream.normed:
        stream.normed[value] = axis
        for each, place in goes_out(stream, value, axis, norm):
            follow(stream, each, place, norm)


def layer_that_writes(node: ir.Node, value: ir.Value, axis: int, width: int) -> list[Weight] | None:
    """The constants of a linear layer that makes a value; None where it is no layer of its own."""
    last = axis == len(shape_of(value) or ()) - 1
    if node.op_type == "Conv" and axis == 1 and integer(node, "group", 1) == 1:
        return weights_of(node, (1, -len(shape_of(node.inputs[1]) or ())), (2, -1), width)
    if node.op_type == "Gemm" and last:
        return weights_of(node, (1, -2 if integer(node, "transB", 0) else -1), (2, -1), width)
    if node.op_type == "MatMul" and last:
        return weights_of(node, (1, -1), None, width)
    if node.op_type == "Add" and last and has_constant(node):
        added = 0 if constant(node.inputs[0]) is not None else 1
        product = node.inputs[1 - added]
        inner = maker(product, "MatMul")
        if inner is None or len(list(product.uses())) != 1 or product.is_graph_output():  # type: ignore[union-attr]
            return None
        first = weights_of(inner, (1, -1), None, width)
        second = weights_of(node, (added, -1), None, width)
        return [*first, *second] if first and second else None
    return None


def weights_of(
    node: ir.Node, kernel: tuple[int, int], bias: tuple[int, int] | None, width: int
) -> list[Weight] | None:
    """A node's constants with the axis of its outputs; None where one is computed, or is not of this width."""
    found = []
    for number, axis in (kernel, bias) if bias is not None else (kernel,):
        if number >= len(node.inputs) or node.inputs[number] is None:
            continue
        values = constant(node.inputs[number])
        if values is None or values.ndim < -axis or values.shape[axis] != width:
            return None
        found.append(Weight(node, number, axis))
    return found


def layer_that_reads(node: ir.Node, number: int, axis: int, rank: int) -> int | None:
    """The axis of a layer's weight, from the end, that meets a value's channels; None where it is no layer."""
    if number != 0 or len(node.inputs) < 2 or constant(node.inputs[1]) is None:
        return None
    if node.op_type == "Conv" and axis == 1 and integer(node, "group", 1) == 1:
        padded = (
            any(integers(node, "pads", ()) or ()) or "auto_pad" in node.attributes
        )  # a shift would be missing
        return None if padded else 1 - len(shape_of(node.inputs[1]) or ())
    if axis != rank - 1 or len(shape_of(node.inputs[1]) or ()) != 2:
        return None
    if node.op_type == "Gemm" and not integer(node, "transA", 0):
        return -1 if integer(node, "transB", 0) else -2
    return -2 if node.op_type == "MatMul" else None


def joins(node: ir.Node, axis: int, width: int) -> bool:
    """Whether all that a sum or a concatenation joins has the stream's channels on this axis of the output."""
    output = shape_of(node.outputs[0])
    if output is None or not 0 <= axis < len(output) or output[axis] != width:
        return False
    if node.op_type == "Concat":
        return integer(node, "axis", 0) % len(output) != axis
    shapes = [shape_of(each) for each in node.inputs]
    from_end = axis - len(output)
    return all(each is not None and len(each) >= -from_end and each[from_end] == width for each in shapes)


def has_constant(node: ir.Node) -> bool:
    """Whether one of a node's inputs is constant."""
    return any(constant(each) is not None for each in node.inputs)


def affordable(stream: Stream) -> bool:
    """Whether products in between are cheap beside the stream's own layers, and can be spelled."""
    between = [*stream.turned, *((each.value, each.axis) for each in stream.straightened)]
    own = 0
    for each in (*stream.writes, *stream.reads):
        values = constant(each.node.inputs[each.number])
        made = shape_of(each.node.outputs[0])
        if values is not None and values.ndim > 1 and made and each.node.op_type not in SUMS:
            own += values.size * math.prod(made) // (values.shape[0 if values.ndim == 4 else -1] or 1)
    extra = sum(math.prod(shape_of(value) or (1,)) * stream.width for value, _ in set(between))
    spelled = all(axis in (len(shape_of(value) or ()) - 1, 1) for value, axis in between)
    return spelled and extra <= AFFORDABLE * own
