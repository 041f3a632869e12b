"""A model from an .onnx file: checked, given one batch of fixed size, run by ONNX Runtime.

Any producer's graph of opset 11 and later with one float32 image input and one output. The batch may be symbolic;
weights may lie in files beside it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from edgevit.errors import InputError
from edgevit.files import refuse_irregular
from edgevit.images.preprocessing import Preprocessing
from edgevit.models.checkpoint import one_line, refuse_text
from edgevit.models.huggingface_config import PREPROCESSOR
from edgevit.models.huggingface_preprocessing import preprocessing_of
from edgevit.models.model import LoadedModel, finish

SUFFIX = ".onnx"
OLDEST_OPSET = 11
LARGEST_BYTES = 2**31 - 1  # of a protobuf message, which a graph with its weights is
CHANNELS = (1, 3)
QUANTIZED = frozenset(
    {
        *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"),
        *("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"),
    }
)


class OnnxGraph(nn.Module):
    """A graph as a module: images float32 [n, channels, height, width] to its outputs, one image at a time.

    `graph` takes [1, channels, height, width]; its weights are parameters here, so that they are counted and hashed
    like any model's.
    """

    def __init__(self, graph: onnx.ModelProto) -> None:
        super().__init__()
        self.graph = graph
        weights = (each for each in graph.graph.initializer if each.data_type == TensorProto.FLOAT)
        arrays = (numpy_helper.to_array(each).copy() for each in weights)
        self.weights = nn.ParameterList(nn.Parameter(torch.from_numpy(each), False) for each in arrays)

    @cached_property
    def session(self) -> Any:
        """ONNX Runtime's session on the CPU."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        return onnxruntime.InferenceSession(
            self.graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor | dict[str, torch.Tensor]:
        name = self.graph.graph.input[0].name
        answers = [self.session.run(None, {name: image[None].numpy()}) for image in images]
        given = [torch.from_numpy(np.concatenate(each)) for each in zip(*answers, strict=True)]
        names = [each.name for each in self.graph.graph.output]
        return given[0] if len(given) == 1 else dict(zip(names, given, strict=True))

    def extra_repr(self) -> str:
        """A digest of the whole graph: what a printed module says identifies it."""
        return f"sha256={hashlib.sha256(self.graph.SerializeToString(deterministic=True)).hexdigest()}"


def is_reference(name: str) -> bool:
    """Whether a model's name is an ONNX file."""
    return name.lower().endswith(SUFFIX)


def load(name: str, *, num_classes: int | None = None, size: tuple[int, int] | None = None) -> LoadedModel:
    """The graph of a file as a model. A preprocessor_config.json beside it says how images are prepared.

    `size` (height, width) in pixels fixes what the graph leaves open. Raises InputError.
    """
    path, what = Path(name), f"cannot load {name}"
    graph = read(path, what)
    refuse_unusual(graph, what)
    notes: list[str] = []
    give_axes(graph)
    height_width, channels = fix_input(graph, size, notes, what)
    if (path.parent / PREPROCESSOR).is_file():
        preprocessing = preprocessing_of(path.parent, channels, height_width, notes)
    else:
        notes.append(
            f"preprocessing assumed: {height_width[0]}x{height_width[1]}, ImageNet mean and deviation "
            f"(put a {PREPROCESSOR} beside the file to change it)"
        )
        preprocessing = Preprocessing(height_width) if channels == 3 else grey(height_width)
    module = OnnxGraph(graph)
    try:
        _ = module.session
    except Exception as error:  # the runtime's own exceptions share no base class
        raise InputError(what, f"ONNX Runtime refuses it: {plain(error)}", "Export it again") from error
    source = f"ONNX file {path.name}, opset {opset_of(graph)}"
    loaded = finish(name, module, preprocessing, source=source, num_classes=num_classes, notes=notes)
    for value, output in zip(graph.graph.output, loaded.outputs.each, strict=True):
        set_lengths(value, (1, *output.shape))
    return replace(loaded, graph=graph)


def grey(size: tuple[int, int]) -> Preprocessing:
    """ImageNet's preprocessing for one channel: the mean of its three."""
    usual = Preprocessing(size)
    mean, std = (float(np.mean(values)) for values in (usual.mean, usual.std))
    return Preprocessing(size, mean=(mean,), std=(std,), channels="L")


def read(path: Path, what: str) -> onnx.ModelProto:
    """The model of a file with its external weights. Raises InputError for anything that isn't a sound one."""
    if path.is_dir():
        raise InputError(what, "it is a directory", "Give the .onnx file")
    refuse_irregular(path, what)
    refuse_text(path, what)
    if path.stat().st_size > LARGEST_BYTES:
        raise InputError(what, "it is larger than 2 GiB", "Save its weights beside it, as external data")
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's decoder has several of its own
        raise InputError(what, "the file is damaged or not an ONNX model", "Export it again") from error
    if not model.graph.node or not model.graph.output:
        raise InputError(what, "the file is damaged or not an ONNX model", "Export it again")
    external = external_files(model, path, what)
    if external:
        total = path.stat().st_size + sum(each.stat().st_size for each in external)
        if total > LARGEST_BYTES:
            raise InputError(what, "with its weights it is larger than 2 GiB", "Convert a smaller model")
        try:
            onnx.load_external_data_for_model(model, str(path.parent))
        except Exception as error:
            why = f"its weights file does not fit it ({plain(error)})"
            raise InputError(what, why, "Copy both files again") from error
    return onnx.inliner.inline_local_functions(model) if model.functions else model


def external_files(model: onnx.ModelProto, path: Path, what: str) -> set[Path]:
    """Files beside a model that hold its weights. Raises InputError where one is missing or lies elsewhere."""
    folder, found = path.parent.resolve(), set()
    for tensor in model.graph.initializer:
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        named = {each.key: each.value for each in tensor.external_data}.get("location", "")
        file = (folder / named).resolve()
        if not named or not file.is_relative_to(folder) or file == folder:
            raise InputError(
                what, f"its weights point outside its folder ({named[:80]!r})", "Export it again"
            )
        if not file.is_file():
            raise InputError(what, f"its weights file {named} is missing", f"Copy it beside {path.name}")
        found.add(file)
    return found


def refuse_unusual(model: onnx.ModelProto, what: str) -> None:
    """Raises InputError for graphs that are too old, quantized, or have not one input."""
    opset = opset_of(model)
    if opset < OLDEST_OPSET:
        raise InputError(
            what, f"it is of opset {opset}", f"Export it with opset {OLDEST_OPSET} or later, such as 17"
        )
    quantized = sorted({node.op_type for node in model.graph.node} & QUANTIZED)
    if quantized:
        raise InputError(
            what,
            f"it is quantized already (it has {quantized[0]} nodes)",
            "Give the float model: edgevit quantizes itself",
        )
    values = inputs_of(model)
    if len(values) != 1:
        names = ", ".join(each.name for each in values)[:120]
        raise InputError(what, f"it has {len(values)} inputs ({names})", "Export it with one input: an image")


def opset_of(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators that a model is written for; 0 where it states none."""
    return max((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), default=0)


def inputs_of(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """What a graph is given; old files list their weights among the inputs too."""
    weights = {each.name for each in model.graph.initializer}
    return [each for each in model.graph.input if each.name not in weights]


def fix_input(
    model: onnx.ModelProto, size: tuple[int, int] | None, notes: list[str], what: str
) -> tuple[tuple[int, int], int]:
    """Give the image input the shape [1, channels, height, width]; its (height, width), and its channels.

    An input [n, height, width, channels] is turned inside the graph. Raises InputError for any other.
    """
    (image,) = inputs_of(model)
    tensor = image.type.tensor_type
    if tensor.elem_type != TensorProto.FLOAT:
        kind = TensorProto.DataType.Name(tensor.elem_type).lower()
        raise InputError(what, f"its input {image.name} is {kind}, not float", "Export the float32 model")
    dims = [dim.dim_value if dim.HasField("dim_value") else 0 for dim in tensor.shape.dim]
    shown = f"[{', '.join(dim.dim_param or str(dim.dim_value or '?') for dim in tensor.shape.dim)}]"
    if len(dims) != 4:
        raise InputError(
            what,
            f"its input {image.name} is {shown}, not one image",
            "Export it to take [n, 3, height, width]",
        )
    last = dims[1] not in CHANNELS and dims[3] in CHANNELS
    channels, own = (dims[3], dims[1:3]) if last else (dims[1], dims[2:])
    if channels not in CHANNELS:
        raise InputError(
            what,
            f"its input {image.name} is {shown}",
            "Export it to take [n, 3, height, width] or [n, 1, ...]",
        )
    if size is not None and any(one not in (0, two) for one, two in zip(own, size, strict=True)):
        raise InputError(
            f"{what} at {size[0]}x{size[1]}", f"it takes {own[0]}x{own[1]}", "Load it at its own size"
        )
    height, width = size or own
    if not (height and width):
        raise InputError(
            what,
            f"its input {image.name} is {shown}: height and width are not fixed",
            "Export it for one size; only the batch may be left open",
        )
    set_shape(model, image, (1, channels, height, width))
    if last:
        given = f"{image.name}_channels_last"
        for node in model.graph.node:
            node.input[:] = [given if each == image.name else each for each in node.input]
        turn = helper.make_node("Transpose", [image.name], [given], perm=[0, 2, 3, 1])
        model.graph.node.insert(0, turn)
        notes.append("the file takes [n, height, width, channels]; a transpose is put in front of it")
    return (height, width), channels


def set_shape(model: onnx.ModelProto, image: onnx.ValueInfoProto, shape: tuple[int, int, int, int]) -> None:
    """Fix an input's shape; forget what the file says of the shapes after it, and of weights among the inputs."""
    del model.graph.value_info[:]
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    set_lengths(image, shape)
    others = [each for each in model.graph.input if each.name == image.name]
    del model.graph.input[:]
    model.graph.input.extend(others)


def give_axes(model: onnx.ModelProto) -> None:
    """Outputs of one number an image, which the file says are [n], become [n, 1]."""
    for output in model.graph.output:
        if len(output.type.tensor_type.shape.dim) != 1:
            continue
        name, flat = output.name, f"{output.name}_flat"
        for node in model.graph.node:
            node.input[:] = [flat if each == name else each for each in node.input]
            node.output[:] = [flat if each == name else each for each in node.output]
        sizes = numpy_helper.from_array(np.array([-1, 1]), f"{name}_sizes")
        model.graph.initializer.append(sizes)
        model.graph.node.append(helper.make_node("Reshape", [flat, sizes.name], [name]))


def set_lengths(value: onnx.ValueInfoProto, lengths: Sequence[int]) -> None:
    """Write a value's static shape."""
    dims = value.type.tensor_type.shape
    dims.ClearField("dim")
    for length in lengths:
        dims.dim.add().dim_value = length


def plain(error: Exception) -> str:
    """The first line of a runtime's message, without its own marks."""
    return one_line(error).rpartition(" : ")[2][:200]
