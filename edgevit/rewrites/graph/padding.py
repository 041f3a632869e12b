"""Token counts that an NPU can transpose.

Every token axis that leads into or out of an attention is filled up with copies of its first token. Copies stay
copies through whatever treats all tokens alike, so int8 sees no value that the model doesn't have anyway; the
attention itself leaves them out of its sums.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial

import numpy as np
import onnx_ir as ir

from edgevit.rewrites.graph.attention import PADDING, core_of, groups_of
from edgevit.rewrites.graph.tokens import axes_read, first_rows, insert_before, replace_constant
from edgevit.rewrites.graph.trimming import leading
from edgevit.rewrites.graph.values import constant, shape_of

Place = tuple[ir.Value, int]  # an axis of a value that counts tokens


def pad_tokens(graph: ir.Graph, alignment: int, *, groups: bool = True) -> list[tuple[int, int]]:
    """Fill up the tokens of every attention to a multiple of `alignment`; the counts before and after.

    Not `groups`: only of attention over all tokens at once.

    The graph is changed in place. Its values' shapes are as before: infer them again.
    """
    changed: list[tuple[int, int]] = []
    places: dict[ir.Value, set[int]] = {}
    for node in graph:
        core = core_of(node.outputs[0]) if node.op_type == "MatMul" else None
        if core is None or core.padding or node.outputs[0] in places:
            continue
        if not groups and groups_of(core) > 1:  # it is filled up group by group
            continue
        keys = (shape_of(core.v) or ())[-2]
        if keys % alignment:
            spread([(core.v, len(shape_of(core.v) or ()) - 2)], places, graph)
            changed.append((keys, keys + -keys % alignment))
    if not places:
        return []
    fill(graph, places, alignment)
    return list(dict.fromkeys(changed))


def spread(seeds: list[Place], places: dict[ir.Value, set[int]], graph: ir.Graph) -> None:
    """Follow token axes from the seeds wherever all tokens are treated alike, and add them to `places`."""
    queue = deque(seeds)
    outputs = set(graph.outputs)
    while queue:
        value, axis = queue.popleft()
        if axis in places.get(value, ()) or constant(value) is not None or value in outputs:
            continue
        places.setdefault(value, set()).add(axis)
        node = value.producer()
        before = None if node is None else sources(node, axis)
        if node is not None and before is not None:
            queue += [
                (each, own) for each, own in zip(node.inputs, before, strict=True) if each and own is not None
            ]
        for reader in dict.fromkeys(value.consumers()):
            queue += results(reader, value, axis)


def sources(node: ir.Node, axis: int) -> list[int | None] | None:
    """As `axes_read`, and over the keys of an attention; None where tokens are to be filled up behind the node."""
    shape = shape_of(node.outputs[0]) or ()
    if node.op_type == "Softmax" and core_at(node) is not None and axis == len(shape) - 1:
        return [axis]
    axes = axes_read(node, axis)
    if axes is None:
        return None
    for each, own in zip(node.inputs, axes, strict=True):
        given = shape_of(each)
        # Feature maps have their places last: tokens begin behind the transpose.
        if own is not None and given is not None and own == len(given) - 1 and axis != len(shape) - 1:
            return None
    return axes


def results(node: ir.Node, value: ir.Value, axis: int) -> list[Place]:
    """Where a node's outputs count the tokens that one of its inputs counts."""
    found: list[Place] = []
    for output in node.outputs:
        for own in range(len(shape_of(output) or ())):
            before = sources(node, own)
            if before is None:
                continue
            pairs = zip(node.inputs, before, strict=True)
            if any(each is value and counted == axis for each, counted in pairs):
                found.append((output, own))
    core = core_over(node, value, axis)
    if core is not None:  # the weights of these values
        weights = node.inputs[0]
        assert weights is not None
        found.append((weights, len(shape_of(weights) or ()) - 1))
    return found


def core_at(softmax: ir.Node) -> ir.Node | None:
    """The product that weighs values by a softmax, where it is an attention's."""
    for reader in softmax.outputs[0].consumers():
        if (
            reader.op_type == "MatMul"
            and reader.inputs[0] is softmax.outputs[0]
            and core_of(reader.outputs[0])
        ):
            return reader
    return None


def core_over(node: ir.Node, value: ir.Value, axis: int) -> ir.Node | None:
    """The node, where it is an attention's last product and sums over this axis of a value."""
    rank = len(shape_of(value) or ())
    summed = (node.inputs[0] is value and axis == rank - 1) or (node.inputs[-1] is value and axis == rank - 2)
    return node if node.op_type == "MatMul" and summed and core_of(node.outputs[0]) else None


def fill(graph: ir.Graph, places: dict[ir.Value, set[int]], alignment: int) -> None:
    """Fill up every place: constants beside it, target shapes of reshapes, and the values where tokens begin."""
    more = {
        value: {axis: -(shape_of(value) or ())[axis] % alignment for axis in axes}
        for value, axes in places.items()
    }
    edits: list[Callable[[], None]] = []
    for node in graph:
        for number, axis, count in constants_beside(node, places, more):
            edits.append(partial(fill_constant, node, number, axis, count))
        output = node.outputs[0]
        kept = {axis for axis in places.get(output, ()) if sources(node, axis) is not None}
        if node.op_type in ("Reshape", "Expand") and kept:
            every = enumerate(shape_of(output) or ())
            sizes = [size + (more[output][axis] if axis in kept else 0) for axis, size in every]
            edits.append(partial(replace_constant, node, 1, np.asarray(sizes, np.int64)))
        last = len(shape_of(output) or ()) - 1
        if node.op_type == "Softmax" and last in places.get(output, ()) and core_at(node):
            edits.append(partial(node.metadata_props.update, {PADDING: str(more[output][last])}))
    for value, axes in places.items():
        edits += borders(value, axes, more[value], places)
    for edit in edits:
        edit()


def constants_beside(
    node: ir.Node, places: dict[ir.Value, set[int]], more: dict[ir.Value, dict[int, int]]
) -> list[tuple[int, int, int]]:
    """(input, axis, count): constants of a node that have a row for each token."""
    found = []
    for output in node.outputs[:1]:
        for axis in sorted(places.get(output, ())):
            for number, own in enumerate(sources(node, axis) or ()):
                if own is not None and constant(node.inputs[number]) is not None:
                    found.append((number, own, more[output][axis]))
    return found


def borders(
    value: ir.Value, axes: set[int], more: dict[int, int], places: dict[ir.Value, set[int]]
) -> list[Callable[[], None]]:
    """What is to be done where a value's tokens begin to be filled up, and where they are read as they were."""
    node, shape = value.producer(), shape_of(value) or ()
    begins = sorted(axis for axis in axes if node is None or sources(node, axis) is None)
    inside: list[ir.Node] = []
    outside: list[ir.Node] = []
    for reader in dict.fromkeys(value.consumers()):
        follows = all(follows_axis(reader, value, axis, places) for axis in axes)
        (inside if follows else outside).append(reader)
    if begins:
        if len(begins) != len(axes):
            raise NotImplementedError
        return [partial(begin, value, {axis: more[axis] for axis in begins}, inside)] if inside else []
    return [
        partial(read_as_before, reader, value, {axis: shape[axis] for axis in axes})
        for reader in outside
        if leading(reader) is None
    ]


def follows_axis(reader: ir.Node, value: ir.Value, axis: int, places: dict[ir.Value, set[int]]) -> bool:
    """Whether a node treats all tokens of a value alike, and gives them on."""
    return any(own in places.get(output, ()) for output, own in results(reader, value, axis))


def begin(value: ir.Value, counts: dict[int, int], readers: list[ir.Node]) -> None:
    """Have readers see a value with copies of its first token behind it."""
    filled = value
    for axis, count in counts.items():
        name = f"{value.name}_filled_{axis}"
        token = first_rows(readers[0], filled, 1, axis, f"{name}_token")
        filled = insert_before(readers[0], "Concat", [filled, *[token] * count], name, axis=axis)
    for reader in readers:
        for number, each in enumerate(reader.inputs):
            if each is value:
                reader.replace_input_with(number, filled)


def read_as_before(reader: ir.Node, value: ir.Value, sizes: dict[int, int]) -> None:
    """Have a node see a value without what was filled up."""
    kept = value
    for axis, size in sizes.items():
        kept = first_rows(reader, kept, size, axis, f"{reader.outputs[0].name}_{value.name}_kept_{axis}")
    for number, each in enumerate(reader.inputs):
        if each is value:
            reader.replace_input_with(number, kept)


def fill_constant(node: ir.Node, number: int, axis: int, count: int) -> None:
    """Give a constant copies of its first row behind it."""
    values = constant(node.inputs[number])
    assert values is not None
    replace_constant(node, number, np.concatenate([values, *[values.take([0], axis)] * count], axis))
