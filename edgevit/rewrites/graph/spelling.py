"""Attention written anew, in the spelling that compilers fuse, or in one that needs no softmax kernel.

The scale, wherever it was, goes into q's weights.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import pattern

from edgevit.rewrites.graph.attention import Heads, Sizes, core_of, groups_of, operands_of
from edgevit.rewrites.graph.linears import as_tokens, emit, numbers, reshaped
from edgevit.rewrites.graph.values import Array, shape_of

SPELT = "edgevit.spelt"  # of an attention's output, in the graph's memory
# Parts that a tensor is cut into at once: of 64, rknn-toolkit2 takes minutes.
MAX_PARTS = 16


class SpellAttention(pattern.RewriteRuleClassBase):
    """Attention from linear layers to its heads, as compilers fuse it; `by_norm`: without softmax kernels."""

    def __init__(self, *, by_norm: bool, alignment: int = 1) -> None:
        super().__init__("softmax-by-norm" if by_norm else "spell-attention", remove_nodes=False)
        self.by_norm, self.alignment = by_norm, alignment

    def pattern(self, op: Any, scores: Any, v: Any) -> Any:
        """Values weighed by a softmax."""
        return op.MatMul(op.Softmax(scores, _allow_other_attributes=True), v, _outputs=["output"])

    def check(self, op: Any, *args: Any, **kwargs: Any) -> Any:
        """Whether all of it is known, and something would change."""
        result, output = pattern.MatchResult(), kwargs["output"]
        self.core = core_of(output)
        if self.core is None or shape_of(output) is None or SPELT in output.meta:
            return result.fail("no attention whose scores are a product")
        self.q, self.k, self.v = operands_of(self.core)
        found = [each for each in (self.q, self.k, self.v) if each is not None]
        if self.by_norm and stages(groups_of(self.core)) is None:
            return result.fail("its tokens are in too many groups")
        alike = len({(each.groups, each.heads) for each in found}) == 1
        if not self.by_norm and not self.core.padding and (len(found) < 3 or not alike):
            return result.fail("its heads are not cut out of linear layers")
        if not alike:
            self.q = self.k = self.v = None
        return result

    def rewrite(self, op: Any, output: ir.Value, **_: Any) -> Any:
        """The same attention, spelt anew."""
        core, name = self.core, str(output.name)
        assert core is not None
        shape = shape_of(output) or ()
        *lead, queries, values = shape
        given = self.q or self.k or self.v
        heads = given.heads if given else (lead[-1] if lead else 1)
        width, keys = (shape_of(core.keys_t) or ())[-2:]
        sizes = Sizes(int(np.prod(lead)) // heads, heads, queries, keys, width, values)
        q, k, v = self.operands(op, sizes, name)
        bias = None if core.bias is None else core.bias.reshape(-1, heads, queries, keys).swapaxes(0, 1)
        if bias is not None and (bias == bias[:, :1]).all():
            bias = bias[:, :1]
        if self.by_norm:
            out = op.Reshape(
                groups_as_heads(op, q, k, v, bias, sizes, core.padding, self.alignment, name),
                numbers(op, (sizes.groups, queries, heads, values), f"{name}_groups"),
            )
            out = op.Transpose(out, perm=[0, 2, 1, 3])
        else:
            out = by_softmax(op, q, k, v, bias, sizes, core.padding, name)
            out.meta[SPELT] = True
            if sizes.groups > 1:
                out = op.Transpose(out, perm=[1, 0, 2, 3])
        return (
            out
            if shape == (sizes.groups, heads, queries, values)
            else reshaped(op, out, shape, f"{name}_out")
        )

    def operands(self, op: Any, sizes: Sizes, name: str) -> tuple[ir.Value, ir.Value, ir.Value]:
        """q, k and v [1, heads, groups * tokens, width], q scaled; those of one input by one linear layer."""
        core, q = self.core, self.q
        assert core is not None
        scale = np.float32(core.scale)
        if q is not None:
            q = replace(q, weight=q.weight * scale, bias=None if q.bias is None else q.bias * scale)
        made: dict[str, ir.Value] = {}
        known = {key: each for key, each in (("q", q), ("k", self.k), ("v", self.v)) if each is not None}
        while known:
            first = next(iter(known.values()))
            same = {
                key: each for key, each in known.items() if each.x is first.x and each.taken == first.taken
            }
            made |= project(op, same, f"{name}_{''.join(same)}")
            known = {key: each for key, each in known.items() if key not in same}
        tokens = {"q": (core.q, sizes.queries, sizes.width), "k": (core.keys_t, sizes.keys, sizes.width)}
        for key, (value, count, width) in (tokens | {"v": (core.v, sizes.keys, sizes.values)}).items():
            if key not in made:
                made[key] = self.as_given(op, key, value, (sizes.groups, sizes.heads, count, width), name)
        return made["q"], made["k"], made["v"]

    def as_given(self, op: Any, key: str, value: ir.Value, shape: tuple[int, ...], name: str) -> ir.Value:
        """An operand that no linear layer makes, in the same layout."""
        rank = len(shape_of(value) or ())
        if key == "k":
            value = op.Transpose(value, perm=[*range(rank - 2), rank - 1, rank - 2])
        if key == "q" and self.core is not None and self.core.scale != 1.0:
            scale = np.asarray(self.core.scale, np.float32)
            value = op.Mul(value, op.initializer(ir.tensor(scale), name=f"{name}_scale"))
        groups, heads, tokens, width = shape
        if groups > 1:
            value = op.Reshape(value, numbers(op, shape, f"{name}_{key}_groups"))
            value = op.Transpose(value, perm=[1, 0, 2, 3])
        return op.Reshape(value, numbers(op, (1, heads, groups * tokens, width), f"{name}_{key}"))  # type: ignore[no-any-return]


def project(op: Any, parts: dict[str, Heads], name: str) -> dict[str, ir.Value]:
    """Heads [1, heads, groups * tokens, width] of one input by one linear layer over all groups at once."""
    first = next(iter(parts.values()))
    tokens = first.groups * first.tokens
    if first.tokens < first.rows:
        x = as_tokens(op, first.x, (first.groups, first.rows, len(first.weight)), f"{name}_x")
        x = cut(op, x, 0, first.tokens, 1, f"{name}_rows")
        x = op.Reshape(x, numbers(op, (1, tokens, len(first.weight)), f"{name}_x")) if first.groups > 1 else x
    else:
        x = as_tokens(op, first.x, (1, tokens, len(first.weight)), f"{name}_x")
    weight = np.concatenate([each.weight for each in parts.values()], axis=1)
    biases = [
        np.zeros(each.weight.shape[1], weight.dtype) if each.bias is None else each.bias
        for each in parts.values()
    ]
    bias = None if all(each.bias is None for each in parts.values()) else np.concatenate(biases)
    joined, made, start = emit(op, x, weight, bias, name), {}, 0
    for key, each in parts.items():
        end = start + each.weight.shape[1]
        part = joined if len(parts) == 1 else cut(op, joined, start, end, 2, f"{name}_{key}")
        split = op.Reshape(part, numbers(op, (1, tokens, each.heads, each.width), f"{name}_{key}_heads"))
        made[key], start = op.Transpose(split, perm=[0, 2, 1, 3]), end
    return made


def by_softmax(
    op: Any, q: ir.Value, k: ir.Value, v: ir.Value, bias: Array | None, sizes: Sizes, padding: int, name: str
) -> ir.Value:
    """softmax(q kᵀ + bias) v of [1, heads, groups * tokens, width], `bias` [heads, groups, queries, keys].

    n copies of a key, each shifted by -log n, weigh what one key does. The shift is small, unlike a mask of minus
    infinity, so it costs int8 scores no resolution.
    """
    if sizes.groups > 1:
        flat = {"q": (q, sizes.queries, sizes.width), "k": (k, sizes.keys, sizes.width)}
        flat["v"] = v, sizes.keys, sizes.values
        q, k, v = (
            op.Reshape(value, numbers(op, (sizes.heads, sizes.groups, tokens, width), f"{name}_{key}_groups"))
            for key, (value, tokens, width) in flat.items()
        )
    scores = op.MatMul(q, op.Transpose(k, perm=[0, 1, 3, 2]))
    if padding:
        shares = np.zeros(sizes.keys)
        shares[[0, *range(sizes.keys - padding, sizes.keys)]] = -np.log(1 + padding)
        bias = shares if bias is None else bias + shares
    if bias is not None:
        bias = bias.swapaxes(0, 1) if sizes.groups == 1 and bias.ndim == 4 else bias
        scores = op.Add(scores, op.initializer(ir.tensor(np.asarray(bias, np.float32)), name=f"{name}_bias"))
    return op.MatMul(op.Softmax(scores, axis=-1), v)  # type: ignore[no-any-return]


def groups_as_heads(
    op: Any,
    q: ir.Value,
    k: ir.Value,
    v: ir.Value,
    bias: Array | None,
    sizes: Sizes,
    padding: int,
    alignment: int,
    name: str,
) -> ir.Value:
    """Attention without softmax kernels, all groups' heads side by side: [1, groups * queries, heads * values].

    What needs no softmax kernel needs no batches either: NPUs without the one transpose only one image, but cut
    and join tokens. In groups, tokens are filled up here to a count that they transpose.
    """
    groups, many, parts = sizes.groups, sizes.groups * sizes.heads, stages(sizes.groups) or ()
    filled = groups > 1 and not padding
    queries, keys = (each + -each % alignment if filled else each for each in (sizes.queries, sizes.keys))
    q = beside(op, q, parts, queries - sizes.queries, f"{name}_q")
    k, v = (beside(op, each, parts, keys - sizes.keys, f"{name}_{key}") for key, each in (("k", k), ("v", v)))
    if bias is not None:
        bias = bias.swapaxes(0, 1) if bias.ndim == 4 else bias[None]
        bias = np.broadcast_to(bias, (groups, *bias.shape[1:]))
        # Cut in stages, the last part comes first.
        bias = np.moveaxis(bias.reshape(*parts, *bias.shape[1:]), 0, len(parts) - 1 if parts else 0)
        bias = bias.reshape(many, *bias.shape[-2:])
        bias = np.pad(bias, ((0, 0), (0, queries - sizes.queries), (0, keys - sizes.keys)), mode="edge")
    whole = Sizes(1, many, queries, keys, sizes.width, sizes.values)
    out = op.Transpose(
        by_norm(op, q, k, v, bias, whole, padding or keys - sizes.keys, name), perm=[0, 2, 1, 3]
    )
    out = op.Reshape(out, numbers(op, (1, queries, many * sizes.values), f"{name}_joined"))
    if queries > sizes.queries:
        out = cut(op, out, 0, sizes.queries, 1, f"{name}_kept")
    for count in reversed(parts):
        out = apart(op, out, count, along=2, joined=1)
    return out  # type: ignore[no-any-return]


def stages(groups: int) -> tuple[int, ...] | None:
    """The parts that as many groups are cut into, one after the other; None where it takes more than two cuts."""
    if groups <= MAX_PARTS:
        return (groups,) if groups > 1 else ()
    for first in range(math.isqrt(groups), 1, -1):
        if groups % first == 0:
            return (first, groups // first) if groups // first <= MAX_PARTS else None
    return None


def beside(op: Any, value: ir.Value, parts: tuple[int, ...], more: int, name: str) -> ir.Value:
    """[1, heads, groups * tokens, width] as [1, groups * heads, tokens + more, width], the first token copied."""
    for count in parts:
        value = apart(op, value, count, along=2, joined=1)
    if more:
        value = op.Concat(value, *[cut(op, value, 0, 1, 2, f"{name}_first")] * more, axis=2)
    return value


def apart(op: Any, value: ir.Value, groups: int, *, along: int, joined: int) -> ir.Value:
    """A value cut into equal parts along one axis, and joined along another."""
    parts = op.Split(value, axis=along, num_outputs=groups, _outputs=groups)
    return op.Concat(*parts, axis=joined)  # type: ignore[no-any-return]


def by_norm(
    op: Any, q: ir.Value, k: ir.Value, v: ir.Value, bias: Array | None, sizes: Sizes, padding: int, name: str
) -> ir.Value:
    """softmax(q kᵀ + bias) v of [1, heads, tokens, width] without softmax, exponential, division or reduction.

    exp(x) = elu(x) + 1 for x <= 0, and dividing positive numbers by their sum is an L1 norm, which the unit for
    LayerNorm computes. Scores are laid out [heads, queries, 1, keys], so that the maximum is a global max-pool,
    then [heads, keys, 1, queries], so that the norm runs over channels. `bias` is [heads, queries, keys].
    """
    heads, queries, keys = sizes.heads, sizes.queries, sizes.keys
    flat = {"q": (q, queries, sizes.width), "k": (k, keys, sizes.width), "v": (v, keys, sizes.values)}
    q, k, v = (
        op.Reshape(value, numbers(op, (heads, tokens, width), f"{name}_{key}_flat"))
        for key, (value, tokens, width) in flat.items()
    )
    scores = op.MatMul(q, op.Transpose(k, perm=[0, 2, 1]))
    if bias is not None:
        scores = op.Add(scores, op.initializer(ir.tensor(np.asarray(bias, np.float32)), name=f"{name}_bias"))
    scores = op.Reshape(scores, numbers(op, (heads, queries, 1, keys), f"{name}_rows"))
    largest = op.MaxPool(scores, kernel_shape=[1, keys], strides=[1, keys], pads=[0, 0, 0, 0])
    exponential = op.Transpose(op.Elu(op.Sub(scores, largest), alpha=1.0), perm=[0, 3, 2, 1])
    # mask * elu + mask: one batch normalisation does the + 1 and leaves copies out.
    mask = np.ones(keys, np.float32)
    mask[keys - padding :] = 0
    constants = {"mask": mask, "mean": np.zeros(keys, np.float32), "variance": np.ones(keys, np.float32)}
    scale, mean, variance = (
        op.initializer(ir.tensor(each), name=f"{name}_{key}") for key, each in constants.items()
    )
    exponential = op.BatchNormalization(exponential, scale, scale, mean, variance, epsilon=0.0)
    total = op.ReduceL1(exponential, numbers(op, (1,), f"{name}_axis"), keepdims=1)
    total = op.Clip(total, op.initializer(ir.tensor(np.asarray(1e-12, np.float32)), name=f"{name}_least"))
    total = op.Expand(total, numbers(op, (heads, keys, 1, queries), f"{name}_whole"))
    weights = op.Reshape(op.Div(exponential, total), numbers(op, (heads, keys, queries), f"{name}_weights"))
    out = op.MatMul(op.Transpose(weights, perm=[0, 2, 1]), v)
    return op.Reshape(out, numbers(op, (1, heads, queries, sizes.values), f"{name}_heads"))  # type: ignore[no-any-return]


def cut(op: Any, value: ir.Value, start: int, end: int, axis: int, name: str) -> ir.Value:
    """value[start:end] along an axis."""
    bounds = [
        numbers(op, (number,), f"{name}_{key}")
        for number, key in ((start, "from"), (end, "to"), (axis, "axis"))
    ]
    return op.Slice(value, *bounds)  # type: ignore[no-any-return]
