"""Residual streams of a graph turned, or rid of their mean: weights change, outputs do not."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgevit.rewrites.graph.streams import Stream, Weight
from edgevit.rewrites.graph.tokens import register, replace_constant
from edgevit.rewrites.graph.values import Array, constant, shape_of


def rotate(graph: ir.Graph, stream: Stream, rotation: Array) -> None:
    """Turn a stream by an orthogonal matrix [width, width] that keeps the vector of ones; norms lose weights."""
    affine = {id(norm): weights_of_norm(norm, stream.width) for norm in stream.norms}
    write(graph, stream, rotation)
    for each in stream.reads:
        scale, shift = affine.get(id(each.norm), (None, None))
        read(graph, each, rotation, scale, shift)
    straight: dict[tuple[ir.Value, int | None], ir.Value] = {}
    as_they_were = {value for value, _ in stream.turned}  # before the product behind them
    for use in stream.straightened:
        if use.value in as_they_were and use.norm is None:
            if use.node is not None:
                use.node.replace_input_with(use.number, use.value)
            continue
        scale, shift = affine.get(id(use.norm), (None, None))
        key = (use.value, id(use.norm) if use.norm else None)
        if key not in straight:
            back = rotation.T if scale is None else rotation.T * scale
            straight[key] = product(graph, use.value, use.axis, back, shift)
        if use.node is not None:
            use.node.replace_input_with(use.number, straight[key])
        else:
            take_the_place(graph, use.value, straight[key])
    for norm in stream.norms:
        replace_constant(norm, 1, np.ones(stream.width, np.float32))
        if len(norm.inputs) > 2 and norm.inputs[2] is not None:
            replace_constant(norm, 2, np.zeros(stream.width, np.float32))


def centre(graph: ir.Graph, stream: Stream) -> None:
    """Have nothing write a mean over channels: every norm subtracts it anyway. For streams that only norms read."""
    write(graph, stream, np.eye(stream.width) - 1 / stream.width)


def write(graph: ir.Graph, stream: Stream, matrix: Array) -> None:
    """Multiply all that comes into a stream by a matrix [width, width]."""
    for each in stream.writes:
        replace_constant(
            each.node, each.number, along(constant(each.node.inputs[each.number]), matrix, each.axis)
        )
    for value, axis in stream.turned:
        readers = [(use.node, use.idx) for use in value.uses()]
        made = product(graph, value, axis, matrix, None)
        for node, number in readers:
            node.replace_input_with(number, made)


def read(graph: ir.Graph, weight: Weight, rotation: Array, scale: Array | None, shift: Array | None) -> None:
    """Have a layer read what a rotation turned, and do what its norm's weights did."""
    values = constant(weight.node.inputs[weight.number])
    assert values is not None
    node, axis = weight.node, weight.axis % values.ndim
    sizes = [1] * values.ndim
    sizes[axis] = -1
    scaled = values.astype(np.float64) * (1.0 if scale is None else scale.reshape(sizes))
    replace_constant(node, weight.number, along(scaled, rotation, axis))
    if shift is None or not shift.any():
        return
    added = np.tensordot(values.astype(np.float64), shift, (axis, 0))
    if values.ndim == 4:
        added = added.sum(axis=(1, 2))
    shift_output(graph, node, added)


def shift_output(graph: ir.Graph, node: ir.Node, added: Array) -> None:
    """Add constants [outputs] to what a linear layer gives: in its bias, or behind a layer without one."""
    if node.op_type in ("Gemm", "Conv"):
        known = constant(node.inputs[2]) if len(node.inputs) > 2 else None
        total = (added if known is None else known + added).astype(np.float32)
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            replace_constant(node, 2, total)
        else:
            node.resize_inputs(3)
            node.replace_input_with(2, register(graph, f"{node.outputs[0].name}_shift", total))
        return
    output = node.outputs[0]
    readers = [(use.node, use.idx) for use in output.uses()]
    bias = bias_behind(readers, added.size) if not output.is_graph_output() else None
    if bias is not None:
        known = constant(bias[0].inputs[bias[1]])
        assert known is not None
        replace_constant(*bias, (known + added).astype(np.float32))
        return
    made = sum_after(graph, output, added.astype(np.float32))
    for reader, number in readers:
        reader.replace_input_with(number, made)
    if output.is_graph_output():
        take_the_place(graph, output, made)


def bias_behind(readers: list[tuple[ir.Node, int]], width: int) -> tuple[ir.Node, int] | None:
    """The sum, and its constant's input, that is all that reads a product; None where there is none."""
    if len(readers) != 1 or readers[0][0].op_type != "Add":
        return None
    node, number = readers[0]
    known = constant(node.inputs[1 - number])
    return (node, 1 - number) if known is not None and known.shape[-1:] == (width,) else None


def weights_of_norm(norm: ir.Node, width: int) -> tuple[Array, Array | None]:
    """A norm's scale and shift [width], in double."""
    scale, shift = (constant(each) for each in (*norm.inputs[1:3], None)[:2])
    assert scale is not None
    whole = np.broadcast_to(scale.astype(np.float64), (width,))
    return whole, None if shift is None else np.broadcast_to(shift.astype(np.float64), (width,))


def along(values: Array | None, matrix: Array, axis: int) -> Array:
    """values · matrix along an axis, in double; float32."""
    assert values is not None
    turned = np.moveaxis(np.tensordot(values.astype(np.float64), matrix, (axis, 0)), -1, axis)
    return np.ascontiguousarray(turned, np.float32)


def product(graph: ir.Graph, value: ir.Value, axis: int, matrix: Array, shift: Array | None) -> ir.Value:
    """A value whose channels are multiplied by a matrix [width, width], plus a shift: a layer of its own."""
    shape = shape_of(value)
    assert shape is not None
    name = f"{value.name}_turned"
    if axis == len(shape) - 1:
        made = after(
            graph, value, "MatMul", [value, register(graph, f"{name}_by", matrix.astype(np.float32))], name
        )
        return made if shift is None or not shift.any() else sum_after(graph, made, shift.astype(np.float32))
    kernel = matrix.T.astype(np.float32)[(..., *[None] * (len(shape) - 2))]
    inputs = [value, register(graph, f"{name}_by", kernel)]
    if shift is not None and shift.any():
        inputs.append(register(graph, f"{name}_plus", shift.astype(np.float32)))
    return after(graph, value, "Conv", inputs, name)


def sum_after(graph: ir.Graph, value: ir.Value, added: Array) -> ir.Value:
    """A value plus a constant, right behind it."""
    inputs = [value, register(graph, f"{value.name}_shift", added)]
    return after(graph, value, "Add", inputs, f"{value.name}_shifted")


def after(graph: ir.Graph, value: ir.Value, kind: str, inputs: list[ir.Value], name: str) -> ir.Value:
    """The output of a new node right behind the one that makes a value, of the value's shape."""
    made = ir.Node("", kind, inputs, num_outputs=1)
    names = {each.name for node in graph for each in node.outputs}
    while name in names:
        name += "_"
    output = made.outputs[0]
    output.name, output.shape, output.type = name, value.shape, value.type
    producer = value.producer()
    if producer is not None:
        graph.insert_after(producer, made)
    else:
        graph.insert_before(next(iter(graph)), made)
    return made.outputs[0]


def before(output: str) -> str:
    """What a value is called once another took its place as an output."""
    return f"{output}_before"


def take_the_place(graph: ir.Graph, old: ir.Value, new: ir.Value) -> None:
    """Make a value the graph's output in another's place, under its name."""
    for number, each in enumerate(graph.outputs):
        if each is old:
            old.name, new.name = before(str(old.name)), old.name
            graph.outputs[number] = new
