"""Which rewrites of a graph there are, in which order, and the proof that each kept the function."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass
from onnxscript.rewriter import pattern, rewrite

from edgevit.export.parity import allowed_for
from edgevit.rewrites.graph.activations import HardSwishOfPixels
from edgevit.rewrites.graph.heads import PadHeads
from edgevit.rewrites.graph.layouts import shorten_moves
from edgevit.rewrites.graph.linears import TokenLinears
from edgevit.rewrites.graph.padding import pad_tokens
from edgevit.rewrites.graph.pools import PoolTokens
from edgevit.rewrites.graph.rows import flatten_rows
from edgevit.rewrites.graph.spelling import SpellAttention
from edgevit.rewrites.graph.strides import SplitStrides
from edgevit.rewrites.graph.swaps import split_moves
from edgevit.rewrites.graph.trimming import trim_tokens
from edgevit.rewrites.graph.values import constant, opened
from edgevit.rewrites.result import RewriteRecord
from edgevit.targets.profiles import Npu

Images = npt.NDArray[np.float32]
UNNAMED, MADE = re.compile(r"val_\d+"), re.compile(r"_made\d+$")
LAYER_ENDS = ("Add", "Gemm", "MatMul")


def split_strides(model: ir.Model, npu: Npu | None) -> dict[str, str]:
    """Convolutions beyond the target's strides as chains."""
    if npu is None or npu.max_conv_stride is None:
        return {}
    before = convolutions(model)
    rewrite(model, [rule(SplitStrides, npu)])
    more = convolutions(model) - before
    what = f"strides beyond {npu.max_conv_stride} run as chains of short ones, {more} more convolutions"
    return {"split-strides": what} if more else {}


def convolutions(model: ir.Model) -> int:
    """How many convolutions a graph has."""
    return sum(node.op_type == "Conv" for node in model.graph)


def alignment_of(npu: Npu | None) -> int:
    """What counts of tokens are to be a multiple of."""
    return 1 if npu is None else npu.transpose_alignment


def trimmed(model: ir.Model, npu: Npu | None) -> dict[str, str]:
    """Attentions for the tokens alone that are read in the end."""
    count = trim_tokens(model.graph, alignment_of(npu))
    what = f"{plural(count, 'attention')} computed only for tokens that are read"
    return {"trim-tokens": what} if count else {}


def attention(model: ir.Model, npu: Npu | None, names: Sequence[str]) -> dict[str, str]:
    """Token counts that the target can transpose, and attentions without a softmax kernel.

    Both at once: an attention that leaves copies of tokens out is written anew in any case.
    """
    by_norm, done = "softmax-by-norm" in names, dict[str, str]()
    changed = pad_tokens(model.graph, alignment_of(npu), groups=not by_norm) if "pad-tokens" in names else []
    if changed:
        refresh(model)
        done["pad-tokens"] = ", ".join(f"{before} tokens padded to {after}" for before, after in changed)
    before = softmaxes(model)
    if changed or by_norm:
        rewrite(model, [rule(SpellAttention, by_norm=by_norm, alignment=alignment_of(npu))])
    if gone := before - softmaxes(model):
        done["softmax-by-norm"] = f"{plural(gone, 'softmax', 'es')} run as max-pool, ELU and L1 norm"
    return done


def padded_heads(model: ir.Model, npu: Npu | None) -> dict[str, str]:
    """Heads of a width that the target can transpose."""
    pad = rule(PadHeads, alignment_of(npu))
    count = pattern.RewriteRuleSet([pad]).apply_to_model(model)
    if count:
        refresh(model)
    return {"pad-heads": f"heads of {plural(count, 'attention')} filled up"} if count else {}


def activations_of_pixels(model: ir.Model, npu: Npu | None) -> dict[str, str]:
    """Activations in the layout in which they are fused."""
    count = pattern.RewriteRuleSet([rule(HardSwishOfPixels)]).apply_to_model(model)
    if count:
        refresh(model)
    what = f"{plural(count, 'HardSwish', 'es')} laid out so that the layer before takes it in"
    return {"fuse-activations": what} if count else {}


def split_by_parts(model: ir.Model, npu: Npu | None) -> dict[str, str]:
    """Places of maps and tokens reordered without transposes of more than two axes."""
    count = split_moves(model.graph)
    return {"split-moves": f"{plural(count, 'reordering')} of places as cuts and joins"} if count else {}


def softmaxes(model: ir.Model) -> int:
    """How many softmaxes a graph has."""
    return sum(node.op_type == "Softmax" for node in model.graph)


def token_rows(model: ir.Model, npu: Npu | None) -> dict[str, str]:
    """Layers and norms over one row of tokens, means of tokens as pools, reorderings in few steps."""
    changed = shorten_moves(model.graph)
    refresh(model)
    before = {id(node) for node in model.graph}
    rewrite(model, [rule(TokenLinears, last) for last in LAYER_ENDS])
    rewrite(model, [rule(PoolTokens)])
    changed += sum(id(node) not in before for node in model.graph)
    refresh(model)
    changed += flatten_rows(model.graph)
    refresh(model)
    changed += shorten_moves(model.graph)
    return {"token-rows": "tokens are kept in one row, in as few transposes as it takes"} if changed else {}


# What each did, by name; nothing where it found nothing to do.
Rewrite = Callable[[ir.Model, Npu | None], dict[str, str]]

# In the order in which they are applied. What an attention looks like is settled before its surroundings are; where
# it can't be both padded and without softmax, it may still be one of them.
GRAPH_REWRITES: tuple[tuple[tuple[str, ...], Rewrite], ...] = (
    (("split-strides",), split_strides),
    (("trim-tokens",), trimmed),
    (("pad-heads",), padded_heads),
    (("pad-tokens", "softmax-by-norm"), partial(attention, names=("pad-tokens", "softmax-by-norm"))),
    (("softmax-by-norm",), partial(attention, names=("softmax-by-norm",))),
    (("pad-tokens",), partial(attention, names=("pad-tokens",))),
    (("token-rows",), token_rows),
    (("fuse-activations",), activations_of_pixels),
    (("split-moves",), split_by_parts),
)


@dataclass(frozen=True)
class Rewritten:
    """A graph after rewrites, and what each did."""

    graph: onnx.ModelProto
    records: tuple[RewriteRecord, ...]


def rewrite_graph(graph: onnx.ModelProto, names: Sequence[str], images: Images, npu: Npu | None) -> Rewritten:
    """Apply rewrites to a graph [1, channels, height, width] of static shapes, proving each on `images`.

    One that fails on this graph, or moves an output too far (`export.parity`), is left out and says so.
    The graph given is not changed.
    """
    expected = outputs_of(graph, images)
    records: dict[str, RewriteRecord] = {}
    for wanted, apply in GRAPH_REWRITES:
        made = {name for name, record in records.items() if record.changed}
        if not set(wanted) <= set(names) - made:
            continue
        label, model = " and ".join(wanted), opened(graph)
        try:
            done = apply(model, npu)
            if not done:
                continue
            found = proto_of(model)
            off = differences(outputs_of(found, images), expected)
            difference = max(moved for moved, _ in off)
        except Exception as error:  # of the rewriter, the shape inference, ONNX Runtime
            lines = str(error).strip().splitlines() or [type(error).__name__]
            what, difference = f"left out, it fails on this graph: {lines[0][:200]}", math.nan
        else:
            if all(moved <= allowed for moved, allowed in off):
                graph = found
                records |= {name: RewriteRecord(name, True, what, difference) for name, what in done.items()}
                continue
            what = f"left out, it moves an output by {difference:.2g}"
        records |= {label: RewriteRecord(label, False, what, None)}
    return Rewritten(graph, tuple(records.values()))


def differences(found: list[Images], expected: list[Images]) -> list[tuple[float, float]]:
    """How far each output moved, and how far it may."""
    return [
        (float(np.abs(ours - theirs).max()), allowed_for(theirs))
        for ours, theirs in zip(found, expected, strict=True)
    ]


def difference_of(found: onnx.ModelProto, graph: onnx.ModelProto, images: Images) -> tuple[float, float]:
    """Of the output of a changed graph that moved furthest beside what it may: how far, and how far it may."""
    off = differences(outputs_of(found, images), outputs_of(graph, images))
    return max(off, key=lambda pair: pair[0] / pair[1])


def rule(kind: Any, *arguments: Any, **options: Any) -> Any:
    """A rule of the rewriter; its own way to make one has no types."""
    return kind.rule(*arguments, **options)


def refresh(model: ir.Model) -> None:
    """Drop what nothing reads, and infer every shape again."""
    fresh = opened(proto_of(model))
    model.graph = fresh.graph


def proto_of(model: ir.Model) -> onnx.ModelProto:
    """The graph as it is saved, without what nothing reads and without shapes, which may have changed."""
    RemoveUnusedNodesPass()(model)
    name_after_inputs(model)
    proto = ir.to_proto(model)
    del proto.graph.value_info[:]
    return proto


def name_after_inputs(model: ir.Model) -> None:
    """Name what the rewriter made after what it is made of: layers are found by the module's own names."""
    names = {value.name for node in model.graph for value in node.outputs}
    for node in model.graph:
        for output in node.outputs:
            if not UNNAMED.fullmatch(str(output.name)):
                continue
            sources = [each for each in node.inputs if each is not None]
            computed = [each for each in sources if constant(each) is None]
            root = MADE.sub("", str((computed or sources)[0].name))
            number = next(count for count in itertools.count(1) if f"{root}_made{count}" not in names)
            output.name = f"{root}_made{number}"
            names.add(output.name)


def outputs_of(graph: onnx.ModelProto, images: Images) -> list[Images]:
    """Each output, rows [n, values], on images [n, channels, height, width], one by one."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    name = graph.graph.input[0].name
    answers = [session.run(None, {name: image[None]}) for image in images]
    return [np.concatenate([part.reshape(1, -1) for part in parts]) for parts in zip(*answers, strict=True)]


def plural(count: int, word: str, ending: str = "s") -> str:
    """A count with its word."""
    return f"{count} {word}{'' if count == 1 else ending}"
