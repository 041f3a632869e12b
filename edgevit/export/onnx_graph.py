"""torch to a simplified ONNX graph with static shapes."""

from __future__ import annotations

import ctypes
import gc
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from torch import nn

from edgevit.errors import EdgevitError, ParityError
from edgevit.export.forms import PlainOperations, PlainWindows
from edgevit.export.multi_query import heads_as_rows
from edgevit.export.opset import brought_down, brought_up
from edgevit.export.order import depth_first
from edgevit.export.parity import moved
from edgevit.export.pooling import count_padding
from edgevit.export.quiet import quiet_exporter, quiet_library
from edgevit.files import write_atomically
from edgevit.models.onnx_file import opset_of
from edgevit.rewrites.graph.guards import drop_guards
from edgevit.rewrites.graph.norms import fold_norms_of_one, fuse_norms
from edgevit.rewrites.graph.scales import fold_batch_norms
from edgevit.rewrites.graph.values import opened
from edgevit.rewrites.roles import SPELLINGS

# 17 and later have LayerNormalization as one node (a decomposed one overflows in float16); RKNN stops at 19.
OPSET, FIRST_WITH_NORMS = 19, 17
INPUT, OUTPUT = "input", "logits"  # an output that nobody named


def export_onnx(
    module: nn.Module,
    size: tuple[int, int],
    channels: int,
    out: Path,
    *,
    outputs: Sequence[str] = (OUTPUT,),
    opset: int = OPSET,
    for_npu: bool = False,
    without: Sequence[str] = (),
) -> Path:
    """Write a module as ONNX: `input` float32 [1, channels, *size] normalised, to its `outputs`, float32
    [1, ...] each.

    `for_npu`: what some NPUs leave to the CPU is written, exactly, as something they don't. The same module gives
    the same bytes. Where a trace fails, or its graph does not run or computes something else, the program that
    torch.export makes of the module is traced, then written by torch's newer exporter; `without` some of these
    SPELLINGS where asked. Raises EdgevitError naming what can't be exported, ParityError where no way computes the
    same.
    """
    example = torch.zeros(1, channels, *size)
    probe = np.random.default_rng(0).standard_normal(example.shape).astype(np.float32)
    first: Exception | None = None
    ways = dict(zip(SPELLINGS[1:], (traced, traced_program, from_program), strict=True))
    for way in [each for name, each in ways.items() if name not in without]:
        try:
            write_graph(way(module, example, outputs, opset), out, for_npu=for_npu)
            moved(out, module, probe)
            break
        except Exception as error:  # whatever the exporters raise; what the usual way says is worth most
            first = first or error
    else:
        assert first is not None
        if isinstance(first, ParityError):
            raise first
        raise not_exportable("ONNX", first) from first
    give_back_memory()
    return out


def traced_program(
    module: nn.Module, example: torch.Tensor, outputs: Sequence[str], opset: int
) -> onnx.ModelProto:
    """The graph of a module's program."""
    return traced(as_program(module, example), example, outputs, opset)


def from_program(
    module: nn.Module, example: torch.Tensor, outputs: Sequence[str], opset: int
) -> onnx.ModelProto:
    """The graph that torch's newer exporter makes, which knows more operations and spells them in its own way."""
    with unfused_attention(module), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            verbose=False,
            opset_version=opset,
            input_names=[INPUT],
            output_names=list(outputs),
        )
    assert program is not None
    return program.model_proto


def as_program(module: nn.Module, example: torch.Tensor) -> nn.Module:
    """A module as plain operations with every size fixed: nothing in it asks whether it is being traced."""
    with unfused_attention(module), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(module, (example,), strict=False).module()
    program.train = lambda mode=True: program  # type: ignore[method-assign]  # it has one mode; exporters set it
    return program


def traced(module: nn.Module, example: torch.Tensor, outputs: Sequence[str], opset: int) -> onnx.ModelProto:
    """The graph that torch's exporter makes of a module."""
    with (
        TemporaryDirectory() as folder,
        unfused_attention(module),
        PlainOperations(),
        PlainWindows(grouped=True),
        quiet_exporter(),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # the tracer's remarks on shapes, which are static here
        plain = Path(folder) / "plain.onnx"
        # The TorchScript exporter: its graphs are the ones the vendors' fusion rules were written for.
        torch.onnx.export(
            module,
            (example,),
            plain,
            dynamo=False,
            opset_version=opset,
            input_names=[INPUT],
            output_names=list(outputs),
        )
        return onnx.load(plain)


def export_graph(given: onnx.ModelProto, out: Path, *, opset: int = OPSET, for_npu: bool = False) -> Path:
    """Write a graph [1, channels, height, width] -> its outputs as `export_onnx` writes a module's.

    One of a later opset is brought down to `opset`, an earlier one up if that can be done. Raises EdgevitError
    where one can't be brought down.
    """
    graph = onnx.ModelProto()
    graph.CopyFrom(given)
    if opset_of(graph) > opset:
        graph = brought_down(simplified(graph), opset)
    elif opset_of(graph) < opset:
        graph = brought_up(simplified(graph), opset)
    write_graph(graph, out, for_npu=for_npu)
    del graph
    give_back_memory()
    return out


def write_graph(graph: onnx.ModelProto, out: Path, *, for_npu: bool) -> None:
    """Simplify a graph and write it."""
    graph = simplified(graph)
    if opset_of(graph) >= FIRST_WITH_NORMS:
        model = opened(graph)
        folded = fold_batch_norms(model.graph) + fold_norms_of_one(model)
        changed = fuse_norms(model) + drop_guards(model)
        graph = ir.to_proto(model) if changed or folded else graph
        graph = simplified(graph) if folded else graph
    if for_npu:
        graph = heads_as_rows(count_padding(graph))
    onnx.checker.check_model(graph)
    write_atomically(out, without_provenance(depth_first(graph)).SerializeToString(deterministic=True))


def simplified(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Fold what static shapes decide, then remove and fuse what is left over.

    onnxslim alone leaves the shape arithmetic of windowed models (Swin) in the graph; onnxsim folds it. Its
    own rewriting is off because it drops the layers' names. onnxslim's Gemm for each linear layer over tokens
    is off because it needs a reshape before and after, and some NPUs leave those to the CPU.
    """
    import onnxsim
    import onnxslim

    with quiet_library():
        folded, _ = onnxsim.simplify(graph, perform_optimization=False)
    slim: onnx.ModelProto = onnxslim.slim(folded, skip_fusion_patterns=["FusionGemm"])
    return slim


def without_provenance(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Drop what says where a graph was made rather than what it computes."""
    graph.producer_name = "edgevit"
    graph.producer_version = graph.doc_string = graph.graph.doc_string = ""
    graph.graph.name = "model"
    del graph.metadata_props[:]
    for node in graph.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    return graph


def give_back_memory() -> None:
    """Return freed memory to the system: the vendor's compiler runs next, beside this process.

    glibc keeps it otherwise; for ViT-B/16 that is 1.3 GB after the copies of its graph are gone.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


@contextmanager
def unfused_attention(module: nn.Module) -> Iterator[None]:
    """Have timm's attention spell out its products and softmax, which every backend knows how to fuse."""
    fused: list[Any] = [part for part in module.modules() if getattr(part, "fused_attn", False)]
    for part in fused:
        part.fused_attn = False
    try:
        yield
    finally:
        for part in fused:
            part.fused_attn = True


def not_exportable(what: str, error: Exception) -> EdgevitError:
    """One line for a module the exporter can't follow."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return EdgevitError(
        f"cannot export the model to {what}",
        f"{type(error).__name__}: {lines[0][:200].rstrip('.')}",
        "Replace what the message names in the model's forward, or report the model",
    )
