"""Runs LiteRT's converter, quantizer and interpreter in their own environment: `python -I litert.py JOB_DIR`.

Reads request.json {"call": name, "args": {...}, "borrowed": folder that holds torch}, appends progress to
events.jsonl and writes result.json last. Needs litert-torch, ai-edge-quantizer, ai-edge-litert and a borrowed
torch, and never edgevit, which is not installed here.
"""

from __future__ import annotations

import os
import re
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent / "shared"))
from job import Values, answer, event, step  # type: ignore[import-not-found]  # noqa: E402

RECIPE_NAME = re.compile(r"(dynamic|static|weight_only)_\w*wi\d\w*")  # the vendor's naming rule
USUAL_RECIPES = ("dynamic_wi8_afp32", "static_wi8_ai8", "static_wi8_ai16", "weight_only_wi8_afp32")


def convert(program: str, artefact: str, without: list[str] | None = None) -> Values:
    """Convert a saved torch.export program to a float .tflite, without some of the converter's own passes."""
    step("convert")
    import litert_torch
    import torch

    left_out = leave_out(set(without or ()))
    exported = torch.export.load(program)
    example = tuple(value for value in exported.example_inputs[0])
    model = litert_torch.convert(exported.module(), example)
    if left_out != set(without or ()):
        raise ValueError(f"the converter has no {', '.join(sorted(set(without or ()) - left_out))}")
    with whole(artefact) as staging:
        model.export(staging)
    return {"artefact": artefact, "bytes": Path(artefact).stat().st_size}


def leave_out(names: set[str]) -> set[str]:
    """Take passes out of the converter's lists, for which it has no setting; gives a set of those met."""
    from litert_torch import fx_infra

    run_all = fx_infra.run_passes
    found: set[str] = set()

    def run_others(program: Any, passes: list[Any]) -> Any:
        kept = [each for each in passes if type(each).__name__ not in names]
        found.update(type(each).__name__ for each in passes if each not in kept)
        return run_all(program, kept)

    fx_infra.run_passes = run_others
    return found


def quantize(
    model: str,
    artefact: str,
    recipe: str | list[Values],
    calibration: str | None = None,
    mean: list[float] | None = None,
    std: list[float] | None = None,
    vendor_ranges: bool = False,
) -> Values:
    """Quantize a float .tflite with a named recipe of the vendor's or one spelt out as a list of rules.

    Static recipes are calibrated on `calibration`, pixels uint8 [n, height, width, channels] .npy, normalised with
    `mean` and `std` per channel in 0..255: on the extremes of all images, or as the quantizer would by itself.
    """
    step("quantize")
    from ai_edge_quantizer import quantizer as vendor
    from ai_edge_quantizer import recipe as recipes

    session = vendor.Quantizer(model)
    session.load_quantization_recipe(rules_of(recipe, recipes))
    if not session.need_calibration:
        for name in weighted_from_the_left(model):
            session.update_quantization_recipe(
                re.escape(name), vendor.qtyping.TFLOperationName.BATCH_MATMUL, algorithm_key="no_quantize"
            )
    ranges = None
    if session.need_calibration:
        if calibration is None or mean is None or std is None:
            raise ValueError("this recipe needs calibration images")
        images = {signature(model): list(samples(model, calibration, mean, std))}
        ranges = session.calibrate(images) if vendor_ranges else extremes(session, model, images)
    step("quantize")
    with whole(artefact) as staging:
        session.quantize(ranges).export_model(staging, overwrite=True)
    return {"artefact": artefact, "bytes": Path(artefact).stat().st_size}


def weighted_from_the_left(model: str) -> list[str]:
    """Outputs of the matrix products of a .tflite whose left factor is a constant.

    The quantizer would make that int8 and leave the other factor float; the kernels take such a pair only where
    the constant is on the right.
    """
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    content = flatbuffer_utils.read_model(model)
    return [
        bytes(graph.tensors[each.outputs[0]].name).decode()
        for graph in content.subgraphs
        for each in graph.operators
        if content.operatorCodes[each.opcodeIndex].builtinCode == schema.BuiltinOperator.BATCH_MATMUL
        and content.buffers[graph.tensors[each.inputs[0]].buffer].data is not None
    ]


def describe(model: str, description: str) -> Values:
    """Write a description into a .tflite's own metadata, under the name "edgevit".

    Returns the oldest runtime that the file asks for, and the type of its input.
    """
    step("describe")
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    content = flatbuffer_utils.read_model(model)
    known = {bytes(each.name): content.buffers[each.buffer].data for each in content.metadata or ()}
    if description:
        buffer, entry = schema.BufferT(), schema.MetadataT()
        buffer.data = list(description.encode())
        entry.name, entry.buffer = b"edgevit", len(content.buffers)
        content.buffers.append(buffer)
        content.metadata = [*(content.metadata or ()), entry]
        with whole(model) as staging:
            flatbuffer_utils.write_model(content, staging)
    oldest = bytes(known.get(b"min_runtime_version", b"")).rstrip(b"\0").decode()
    (graph, *_), types = content.subgraphs, vars(schema.TensorType)
    given = graph.tensors[graph.inputs[0]].type
    (takes,) = [name.lower() for name, value in types.items() if value == given and name.isupper()]
    return {"oldest": oldest, "takes": takes}


def extremes(session: Any, model: str, images: Values) -> Values:
    """The least and the largest value each tensor takes on any image.

    The quantizer's own default is a moving average of every image's extremes. It clips what single images need:
    for DeiT-Ti with 16-bit activations that was all of the loss.
    """
    from ai_edge_quantizer import calibrator, recipe_manager
    from ai_edge_quantizer.utils import qsv_utils

    recipe = recipe_manager.RecipeManager()
    recipe.load_quantization_recipe(session.get_quantization_recipe())
    observer = calibrator.Calibrator(model, qsv_update_func=qsv_utils.min_max_update)
    observer.calibrate(images, recipe)
    return dict(observer.get_model_qsvs())


def rules_of(recipe: str | list[Values], recipes: Any) -> list[Values]:
    """A recipe's rules. Raises ValueError with the usual names for an unknown one."""
    if not isinstance(recipe, str):
        return recipe
    named = {name: make for name, make in vars(recipes).items() if RECIPE_NAME.fullmatch(name)}
    if recipe not in named:
        raise ValueError(f"no recipe named {recipe!r}; the usual ones are {', '.join(USUAL_RECIPES)}")
    return list(named[recipe]())


def run(model: str, pixels: str, mean: list[float], std: list[float], outputs: str, threads: int) -> Values:
    """Run a .tflite over pixels uint8 [n, height, width, channels]; write outputs float32 [n, values]."""
    import numpy as np

    step("run")
    interpreter = open_model(model, threads)
    give, takes = interpreter.get_input_details()[0], in_order(interpreter)
    rows, total = [], len(np.load(pixels, mmap_mode="r"))
    for number, image in enumerate(normalised(pixels, mean, std)):
        interpreter.set_tensor(give["index"], as_input(image, give))
        interpreter.invoke()
        given = [as_float(interpreter.get_tensor(take["index"]), take).reshape(-1) for take in takes]
        rows.append(np.concatenate(given))
        event(done=number + 1, total=total)
    with whole(outputs) as staging:
        np.save(staging, np.stack(rows).astype(np.float32))
    return partitions(model, threads) | {"images": len(rows)}


def benchmark(
    models: list[str], threads: int, rounds: int, seconds: float = 600.0, fewest: int = 7
) -> Values:
    """Milliseconds an inference of each model, interleaved so that a busy machine hurts all alike.

    Stops after `seconds`, but not before `fewest` rounds.
    """
    import numpy as np

    step("time")
    interpreters = [open_model(model, threads) for model in models]
    for interpreter in interpreters:
        details = interpreter.get_input_details()[0]
        noise = np.random.default_rng(0).standard_normal(details["shape"]).astype(np.float32)
        interpreter.set_tensor(details["index"], as_input(noise, details))
        for _ in range(3):
            interpreter.invoke()
    times: list[list[float]] = [[] for _ in models]
    begun = time.perf_counter()
    for number in range(rounds):
        if number >= fewest and time.perf_counter() - begun > seconds:
            break
        for interpreter, series in zip(interpreters, times, strict=True):
            started = time.perf_counter()
            interpreter.invoke()
            series.append(1000 * (time.perf_counter() - started))
        event(done=number + 1, total=rounds)
    return {"median_ms": [statistics.median(series) for series in times], "ms": times}


def partitions(model: str, threads: int = 1) -> Values:
    """How many pieces the XNNPACK delegate runs, which ops a model has, and which of them split it."""
    operations = open_model(model, threads)._get_ops_details()
    delegates = [operation for operation in operations if operation["op_name"] == "DELEGATE"]
    ordinary = [operation for operation in operations if operation["op_name"] != "DELEGATE"]
    inside = delegated(ordinary, delegates)
    outside = Counter(operation["op_name"] for operation in ordinary if operation["index"] not in inside)
    names = Counter(operation["op_name"] for operation in ordinary)
    return {
        "partitions": len(delegates),
        "operations": dict(sorted(names.items())),
        "outside": dict(outside.most_common()),
    }


def delegated(operations: list[Values], delegates: list[Values]) -> set[int]:
    """Indices of the ops that delegates replaced: all between a delegate's outputs and its inputs."""
    maker = {int(tensor): operation for operation in operations for tensor in operation["outputs"]}
    found: set[int] = set()
    for delegate in delegates:
        border = {int(tensor) for tensor in delegate["inputs"]}
        pending = [int(tensor) for tensor in delegate["outputs"]]
        while pending:
            tensor = pending.pop()
            operation = maker.get(tensor)
            if tensor in border or operation is None or operation["index"] in found:
                continue
            found.add(operation["index"])
            pending += [int(each) for each in operation["inputs"]]
    return found


CALLS: dict[str, Callable[..., Values]] = {
    "convert": convert,
    "quantize": quantize,
    "run": run,
    "benchmark": benchmark,
    "partitions": partitions,
    "describe": describe,
}


def in_order(interpreter: Any) -> list[Values]:
    """Details of a model's outputs in the order in which the program gave them: output_0, output_1 and so on."""
    details = {int(each["index"]): each for each in interpreter.get_output_details()}
    (named,) = [each["outputs"] for each in interpreter._get_full_signature_list().values()]
    return [details[named[name]] for name in sorted(named, key=lambda name: int(name.rpartition("_")[2]))]


def open_model(model: str, threads: int) -> Any:
    """An interpreter with its tensors allocated, XNNPACK on."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model, num_threads=threads)
    interpreter.allocate_tensors()
    return interpreter


def signature(model: str) -> str:
    """The name of a model's one signature."""
    from ai_edge_litert.interpreter import Interpreter

    return str(next(iter(Interpreter(model).get_signature_list())))


def samples(model: str, pixels: str, mean: list[float], std: list[float]) -> Iterator[Values]:
    """Calibration images as the quantizer wants them: input name to one normalised batch."""
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    name = next(iter(Interpreter(model).get_signature_list().values()))["inputs"][0]
    total = len(np.load(pixels, mmap_mode="r"))
    for number, image in enumerate(normalised(pixels, mean, std)):
        event(done=number + 1, total=total)
        yield {name: image}


def normalised(pixels: str, mean: list[float], std: list[float]) -> Iterator[Any]:
    """Each image as float32 [1, height, width, channels]."""
    import numpy as np

    shift, scale = np.asarray(mean, np.float32), np.asarray(std, np.float32)
    for image in np.load(pixels, mmap_mode="r", allow_pickle=False):
        yield ((image.astype(np.float32) - shift) / scale)[None]


def as_input(image: Any, details: Values) -> Any:
    """An image in the input's own type: integer models have their scale in the file."""
    import numpy as np

    if details["dtype"] == np.float32:
        return image
    scale, zero = details["quantization"]
    limits = np.iinfo(details["dtype"])
    return np.clip(np.round(image / scale + zero), limits.min, limits.max).astype(details["dtype"])


def as_float(output: Any, details: Values) -> Any:
    """Outputs in real numbers."""
    import numpy as np

    if details["dtype"] == np.float32:
        return output
    scale, zero = details["quantization"]
    return (output.astype(np.float32) - zero) * np.float32(scale)


class whole:  # noqa: N801 - reads as a verb at its use
    """A temporary name for a file, renamed when it is complete."""

    def __init__(self, final: str) -> None:
        self.final, self.staging = final, f"{final}.part{Path(final).suffix}"

    def __enter__(self) -> str:
        return self.staging

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            Path(self.staging).replace(self.final)
        else:
            Path(self.staging).unlink(missing_ok=True)


if __name__ == "__main__":
    os.chdir(sys.argv[1])
    answer(CALLS)
