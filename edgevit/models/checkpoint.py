"""Weights from a file: opened without running its code, unwrapped, checked, float32."""

from __future__ import annotations

import argparse
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from edgevit.errors import InputError
from edgevit.files import refuse_irregular

PICKLES = (".pth", ".pt", ".bin", ".ckpt", ".tar")
SUFFIXES = (".safetensors", *PICKLES)
# Plain weights first: they are what the training script itself evaluates unless told otherwise.
WRAPPERS = (
    *("state_dict", "model_state_dict", "model_state", "model", "module"),
    *("state_dict_ema", "model_ema", "ema"),
)
PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
# Training scripts keep their options and best scores beside the weights; these types only hold data.
REBUILD: list[Any] = [np.float64(0).__reduce__()[0], np.zeros(1).__reduce__()[0]]
MAX_WRAPPERS = 8  # dicts around the state dict
MAX_EXPANSION = 64  # memory a tensor may claim, in sizes of its file: compression, never a stride of 0
HARMLESS: list[Any] = [
    argparse.Namespace,
    np.dtype,
    np.ndarray,
    *(getattr(np.dtypes, name) for name in ("Float64DType", "Float32DType", "Int64DType", "Int32DType")),
    # numpy.core became numpy._core with numpy 2; files of both are around.
    *(
        (rebuild, f"numpy.{core}.multiarray.{rebuild.__name__}")
        for rebuild in REBUILD
        for core in ("core", "_core")
    ),
]


@dataclass(frozen=True)
class Checkpoint:
    """State dict of a file: floats as float32, integer buffers as they were; `notes` are for the user."""

    path: Path
    weights: dict[str, torch.Tensor]
    notes: tuple[str, ...] = ()


def read_checkpoint(path: Path) -> Checkpoint:
    """Weights of a .safetensors or a torch file. Raises InputError for anything that isn't sound weights."""
    what = f"cannot read weights {path}"
    if path.is_dir():
        raise InputError(
            what, "it is a directory", "Give the weights file, or name the directory itself as the model"
        )
    refuse_irregular(path, what)
    if path.suffix not in SUFFIXES:
        raise InputError(what, f"unknown kind of file {path.suffix!r}", f"Give one of {', '.join(SUFFIXES)}")
    refuse_text(path, what)
    content = read_safetensors(path, what) if path.suffix == ".safetensors" else read_pickle(path, what)
    weights, notes = unwrap(content)
    found = {key: value for key, value in weights.items() if isinstance(value, torch.Tensor)}
    refuse_unusual(found, path, what)
    tensors = {key: plain(value) for key, value in found.items()}
    if not tensors:
        raise InputError(
            what, "it holds no weights", "Save the model's state dict: torch.save(model.state_dict(), path)"
        )
    refuse_not_finite(tensors, path)
    return Checkpoint(path, tensors, tuple(notes))


def refuse_text(path: Path, what: str) -> None:
    """A pointer or an error page saved under a weights file's name is the commonest broken download."""
    with path.open("rb") as file:
        start = file.read(64)
    if not start:
        raise InputError(what, "the file is empty", "Copy or download it again")
    if start.startswith(b"version https://git-lfs"):
        raise InputError(what, "it is a Git LFS pointer, not the weights", 'Run "git lfs pull" beside it')
    if re.fullmatch(rb"[\t\n\r\x20-\x7e]+", start):
        line = start.decode().strip().splitlines()[0][:30] if start.strip() else ""
        raise InputError(
            what, f'it is a text file that starts with "{line}"', "Copy or download the weights again"
        )


def read_safetensors(path: Path, what: str) -> dict[str, torch.Tensor]:
    """Every tensor of a safetensors file."""
    try:
        return dict(load_file(path))
    except SafetensorError as error:
        if "not fully covered" in str(error) or "deserializing" in str(error):
            why = "the file is truncated or damaged"
            raise InputError(what, why, "Copy or download it again") from error
        raise InputError(what, one_line(error), "Copy or download it again") from error


def read_pickle(path: Path, what: str) -> Any:
    """The content of a torch file, without running any code stored in it."""
    with path.open("rb") as file:
        zipped = file.read(2) == b"PK"
    try:
        with torch.serialization.safe_globals(HARMLESS):
            # mmap leaves optimizer states on the disk; only zip files can be mapped.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+) (?:was not an allowed global|whose module)", str(error))
        if found is None:
            raise InputError(
                what, "the file is damaged or not a torch file", "Copy or download it again"
            ) from error
        why = f"it needs code to open ({found[1]}), and code stored in a weights file is not run"
        raise InputError(what, why, "Save the weights alone: torch.save(model.state_dict(), path)") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, RecursionError, MemoryError) as error:
        if "TorchScript" in str(error):
            why = "it is a TorchScript archive, not a state dict"
            raise InputError(
                what, why, "Save the weights alone: torch.save(model.state_dict(), path)"
            ) from error
        raise InputError(what, "the file is truncated or damaged", "Copy or download it again") from error


def unwrap(content: Any) -> tuple[Mapping[str, Any], list[str]]:
    """The state dict inside a training script's checkpoint, and what was done to find it."""
    notes: list[str] = []
    for _ in range(MAX_WRAPPERS):
        if not isinstance(content, Mapping):
            break
        inner = [key for key in WRAPPERS if holds_tensors(content.get(key))]
        if not inner:
            break
        averaged = [key for key in inner if "ema" in key]
        if averaged and averaged[0] != inner[0]:
            notes.append(
                f'weights read from "{inner[0]}"; the file also holds averaged ones, "{averaged[0]}"'
            )
        content = content[inner[0]]
    if not isinstance(content, Mapping):
        return {}, notes
    weights = {str(key).replace("._orig_mod.", "."): value for key, value in content.items()}
    weights.pop("n_averaged", None)  # torch.optim.swa_utils.AveragedModel
    prefix = shared_prefix(weights)
    while prefix:
        weights = {key.removeprefix(prefix): value for key, value in weights.items()}
        prefix = shared_prefix(weights)
    return weights, notes


def holds_tensors(value: Any, depth: int = 1) -> bool:
    """Whether a value is a state dict, or a dict that holds one, at most `depth` dicts deep."""
    return isinstance(value, Mapping) and any(
        isinstance(item, torch.Tensor) or (depth > 0 and holds_tensors(item, depth - 1))
        for item in value.values()
    )


def shared_prefix(weights: Mapping[str, Any]) -> str:
    """The wrapper's prefix that every key has, or nothing."""
    return next((p for p in PREFIXES if weights and all(key.startswith(p) for key in weights)), "")


def plain(tensor: torch.Tensor) -> torch.Tensor:
    """A contiguous copy, floats of any precision as float32.

    Always a copy: a file's tensors lie in it at any address, and kernels round differently where one is unaligned.
    """
    dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
    return tensor.detach().to(dtype, copy=True, memory_format=torch.contiguous_format)


def refuse_unusual(tensors: Mapping[str, torch.Tensor], path: Path, what: str) -> None:
    """Raise InputError for tensors that are no dense float weights, or claim more memory than the file holds."""
    room = MAX_EXPANSION * path.stat().st_size
    for key, tensor in tensors.items():
        if tensor.is_meta:
            why, fix = "has no values (it is on the meta device)", "Save the weights after they are loaded"
        elif tensor.layout is not torch.strided:
            why, fix = "is sparse", "Save dense weights: tensor.to_dense()"
        elif tensor.is_quantized:
            why, fix = "is quantized", "Give the float weights: edgevit quantizes itself"
        elif tensor.numel() * tensor.element_size() > room:
            size = tensor.numel() * tensor.element_size() / 2**30
            why, fix = f"claims {size:.1f} GiB, more than the file holds", "Save a contiguous tensor"
        else:
            continue
        raise InputError(what, f"{key[:80]} {why}", fix)


def refuse_not_finite(weights: Mapping[str, torch.Tensor], path: Path) -> None:
    """NaN and infinity would become wrong answers, not errors, further on."""
    bad = [key for key, value in weights.items() if not torch.isfinite(value).all()]
    if bad:
        count = int((~torch.isfinite(weights[bad[0]])).sum())
        raise InputError(
            f"cannot use weights {path}",
            f"{bad[0]} holds {count} NaN or infinite values ({len(bad)} of {len(weights)} tensors hold any)",
            "Give a checkpoint from before training diverged",
        )


def one_line(error: BaseException) -> str:
    """Type and first line of an exception, for the middle of a message."""
    lines = str(error).strip().splitlines()
    text = lines[0].strip().rstrip(".") if lines else ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
