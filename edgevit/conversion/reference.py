"""The float model as the yardstick of everything after it: its outputs, and the graphs proved equal to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch

from edgevit.conversion.graph_conditioning import condition_file
from edgevit.conversion.pricing import Price
from edgevit.errors import EdgevitError
from edgevit.export import export_graph, export_onnx, export_program, parity
from edgevit.export.graph_module import as_module
from edgevit.export.onnx_graph import give_back_memory, write_graph
from edgevit.images.preprocessing import Preprocessing
from edgevit.models import LoadedModel
from edgevit.models.outputs import rows_of
from edgevit.progress import QUIET, Progress
from edgevit.quantize.diagnosis import sensitivity
from edgevit.quantize.fusion import Fusion
from edgevit.quantize.mixed_precision import measured_effects
from edgevit.quantize.prepare import MEASURED, prepare_int8, save_module
from edgevit.rewrites.equivalence import apply_rewrites
from edgevit.rewrites.graph.confirm import rewrite_where_it_pays
from edgevit.rewrites.result import RewriteRecord
from edgevit.rewrites.roles import ON_GRAPHS, SPELLINGS
from edgevit.targets.profiles import Npu, Recipe

if TYPE_CHECKING:
    from torch import nn

BATCH = 16
PARITY_IMAGES = 8
PROBE_IMAGES = 16
EXPECTED = "expected.npy"  # of an export: the model's outputs on the first of its probe images
SENSITIVITY_IMAGES = 8


def write_outputs(
    loaded: LoadedModel, pixels: Path, out: Path, progress: Progress, doing: str = "float reference"
) -> dict[str, Any]:
    """Write torch's float32 outputs, rows [n, values], for pixels uint8 [n, height, width, channels]."""
    progress.stage(doing)
    images = np.load(pixels, mmap_mode="r")
    np.save(out, outputs_of(loaded.module, images, loaded.preprocessing, progress))
    return {"n": len(images)}


@torch.inference_mode()
def outputs_of(
    module: nn.Module, pixels: np.ndarray[Any, Any], preprocessing: Preprocessing, progress: Progress
) -> np.ndarray[Any, Any]:
    """Float32 outputs of a torch module, in batches: rows [n, values]."""
    outputs = []
    for start in range(0, len(pixels), BATCH):
        batch = preprocessing.normalise(np.asarray(pixels[start : start + BATCH]))
        outputs.append(rows_of(module(torch.from_numpy(batch))).numpy())
        progress.advance(min(start + BATCH, len(pixels)), len(pixels))
    return np.concatenate(outputs)


def export_conditioned(
    loaded: LoadedModel,
    pixels: np.ndarray[Any, Any],
    folder: Path,
    rewrites: Sequence[str],
    npu: Npu | None,
    fusion: Fusion,
    recipe: Recipe,
    price: Price | None,
    progress: Progress,
    without: Sequence[str] = (),
) -> dict[str, Any]:
    """Rewrite and condition for int8; write model.onnx, proved equal to torch, and plan.toml with its ranges.

    `pixels` are the calibration images; `without` some SPELLINGS of the graph. Returns what `export` does, and what
    conditioning did.
    """
    inputs = torch.from_numpy(loaded.preprocessing.normalise(pixels))
    few = inputs[:PARITY_IMAGES]
    module, records = apply_rewrites(loaded.module, rewrites, few, npu=npu)
    observer = MEASURED if recipe.observer == "vendor" else recipe.observer
    ready = prepare_int8(
        module,
        inputs,
        fusion,
        observer=observer,
        seed=recipe.seed,
        outputs=loaded.outputs,
        progress=progress,
    )
    save_module(ready.module, folder / "int8.safetensors")
    found = sensitivity(
        ready.module,
        inputs[-SENSITIVITY_IMAGES:],
        ready.plan.ranges,
        ready.statistics,
        fusion,
        outputs=loaded.outputs,
    )
    size, channels = loaded.preprocessing.size, len(loaded.preprocessing.mean)
    path = export_onnx(
        ready.module, size, channels, folder / "model.onnx", outputs=names_of(loaded), without=without
    )
    on_graph = rewrite_file(path, rewrites, few.numpy(), npu, price, progress)
    (folder / "plan.toml").write_text(ready.plan.to_toml(), encoding="utf-8")
    write_expected(loaded, pixels, folder)
    for text in (ready.stability.warning, ready.explanation):
        if text:
            progress.warn(text)
    return {
        "max_output_difference": parity(path, loaded.module, pixels[:PARITY_IMAGES], loaded.preprocessing),
        "rewrites": [asdict(record) for record in (*records, *on_graph)],
        "int8": {
            **ready.to_json(),
            "effects": measured_effects(ready, inputs, loaded.outputs),
            "weights_only_kl": found.weights_only.kl,
            "activations_only_kl": found.activations_only.kl,
            "kinds": {kind: errors.kl for kind, errors in found.kinds.items()},
        },
    }


def export(
    loaded: LoadedModel,
    pixels: np.ndarray[Any, Any],
    folder: Path,
    export_format: str,
    rewrites: Sequence[str],
    npu: Npu | None,
    price: Price | None,
    progress: Progress,
    conditioning: np.ndarray[Any, Any] | None = None,
    seed: int = 0,
    without: Sequence[str] = (),
) -> dict[str, Any]:
    """Rewrite exactly for the target, write the graph a backend starts from, prove it equal to torch on `pixels`.

    `export_format` is "onnx" or "program". With the calibration images `conditioning`, pixels, the graph is made
    ready for int8 first. `without` some SPELLINGS of the graph, where asked. Returns the largest
    output difference to the model as loaded, and what each rewrite did: those of modules for a plain ViT, those of
    graphs for any model whose backend starts from one. Raises ParityError beyond the tolerance.
    """
    few = pixels[:PARITY_IMAGES]
    inputs = torch.from_numpy(loaded.preprocessing.normalise(few))
    on_modules = rewrites if loaded.canonical else ()
    module, records = apply_rewrites(loaded.module, on_modules, inputs, npu=npu)
    if export_format == "onnx":
        path = write_onnx(loaded, module, folder / "model.onnx", for_npu=npu is not None, without=without)
    else:
        path = write_program(loaded, module, folder / "model.pt2")
    tried: dict[str, Any] = {}
    if export_format == "onnx" and conditioning is not None:
        record, steps = condition_file(path, loaded, conditioning, seed, inputs.numpy(), progress)
        records.append(record)
        tried = {"int8": {"conditioning": [each.to_json() for each in steps]}}
    if export_format == "onnx":
        records += rewrite_file(path, rewrites, inputs.numpy(), npu, price, progress)
    write_expected(loaded, pixels, folder)
    return {
        "max_output_difference": parity(path, loaded.module, few, loaded.preprocessing),
        "rewrites": [asdict(record) for record in records],
        **tried,
    }


def write_onnx(
    loaded: LoadedModel, module: nn.Module, out: Path, *, for_npu: bool = False, without: Sequence[str] = ()
) -> Path:
    """The model as a graph: its own, or the module's, which stands for it; not in the SPELLINGS of `without`."""
    if loaded.graph is not None and SPELLINGS[0] not in without:
        return export_graph(loaded.graph, out, for_npu=for_npu)
    return export_onnx(
        module if loaded.graph is None else as_module(loaded.graph),
        loaded.preprocessing.size,
        len(loaded.preprocessing.mean),
        out,
        outputs=names_of(loaded),
        for_npu=for_npu,
        without=without,
    )


def write_program(loaded: LoadedModel, module: nn.Module, out: Path) -> Path:
    """A torch.export program of the model; by way of its graph where it is one, or where torch can't export it."""
    size, channels = loaded.preprocessing.size, len(loaded.preprocessing.mean)
    if loaded.graph is not None:
        return export_program(as_module(loaded.graph), size, channels, out)
    try:
        return export_program(module, size, channels, out)
    except EdgevitError as error:
        try:
            with TemporaryDirectory() as folder:
                graph = onnx.load(export_onnx(module, size, channels, Path(folder) / "model.onnx"))
            return export_program(as_module(graph), size, channels, out)
        except EdgevitError:  # what the usual way says is worth more
            raise error from None


def names_of(loaded: LoadedModel) -> list[str]:
    """What a model's outputs are called in a graph."""
    return [output.name for output in loaded.outputs.each]


def rewrite_file(
    path: Path,
    rewrites: Sequence[str],
    images: np.ndarray[Any, Any],
    npu: Npu | None,
    price: Price | None,
    progress: Progress,
) -> list[RewriteRecord]:
    """Rewrite an exported graph where that pays, in its own file; what each rewrite did."""
    names = [name for name in rewrites if name in ON_GRAPHS]
    if not names:
        return []
    progress.stage("rewrite the graph, and ask the compiler what it gains")
    found = rewrite_where_it_pays(onnx.load(path), names, images, npu, price)
    if any(record.changed for record in found.records):
        write_graph(found.graph, path, for_npu=False)
        give_back_memory()
    return list(found.records)


def write_expected(loaded: LoadedModel, pixels: np.ndarray[Any, Any], folder: Path) -> None:
    """Keep the model's own outputs on a few probe images: what every artefact of the export is proved against."""
    np.save(folder / EXPECTED, outputs_of(loaded.module, pixels[:PROBE_IMAGES], loaded.preprocessing, QUIET))
