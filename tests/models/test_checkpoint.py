from __future__ import annotations

import argparse
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from edgevit.errors import InputError
from edgevit.models.checkpoint import read_checkpoint

WEIGHTS = OrderedDict([("a.weight", torch.tensor([1.0, 2.0])), ("a.bias", torch.tensor([3.0]))])


def error_of(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_checkpoint(path)
    return str(caught.value)


def prefixed(prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + key: value for key, value in WEIGHTS.items()}


@pytest.mark.parametrize(
    "content",
    [
        WEIGHTS,
        {"model": WEIGHTS, "epoch": 3},
        {"state_dict": prefixed("module."), "optimizer": {"state": {0: {"step": torch.ones(1)}}}},
        {"model_state": WEIGHTS, "epoch": 3},
        {"model_state_dict": prefixed("_orig_mod.module.")},
        {"model_ema": prefixed("module.") | {"n_averaged": torch.tensor(7)}},
        {"state_dict": {"model": WEIGHTS}},
        {"state_dict": prefixed("model."), "pytorch-lightning_version": "2"},
        {"model": {"a._orig_mod.weight": WEIGHTS["a.weight"], "a.bias": WEIGHTS["a.bias"]}},
        {
            "model": WEIGHTS,
            "args": argparse.Namespace(lr=0.1),
            "best": np.float64(0.5),
            "history": np.zeros(2),
        },
    ],
)
def test_wrappers_and_prefixes_are_taken_off(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "weights.pth")
    read = read_checkpoint(tmp_path / "weights.pth").weights
    assert read.keys() == WEIGHTS.keys()
    assert all(torch.equal(read[key], WEIGHTS[key]) for key in WEIGHTS)


def test_plain_weights_come_before_averaged_ones_and_it_is_said(tmp_path: Path) -> None:
    averaged = {key: value * 0 for key, value in WEIGHTS.items()}
    torch.save({"model_ema": averaged, "model": WEIGHTS}, tmp_path / "weights.pth")
    read = read_checkpoint(tmp_path / "weights.pth")
    assert torch.equal(read.weights["a.bias"], WEIGHTS["a.bias"])
    assert read.notes == ('weights read from "model"; the file also holds averaged ones, "model_ema"',)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32_and_integers_stay(tmp_path: Path, dtype: torch.dtype) -> None:
    save_file({"a": torch.ones(2, dtype=dtype), "n": torch.tensor([4])}, tmp_path / "w.safetensors")
    read = read_checkpoint(tmp_path / "w.safetensors").weights
    assert read["a"].dtype == torch.float32
    assert read["n"].dtype == torch.int64


def test_old_torch_files_are_read(tmp_path: Path) -> None:
    torch.save(WEIGHTS, tmp_path / "w.bin", _use_new_zipfile_serialization=False)
    assert read_checkpoint(tmp_path / "w.bin").weights.keys() == WEIGHTS.keys()


def test_weights_outlive_their_file(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(WEIGHTS, path)
    read = read_checkpoint(path).weights
    path.write_bytes(b"")
    assert torch.equal(read["a.weight"], WEIGHTS["a.weight"])


def test_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    assert error_of(path) == f"cannot read weights {path}: no such file. Check the path."


def test_directory(tmp_path: Path) -> None:
    assert error_of(tmp_path) == (
        f"cannot read weights {tmp_path}: it is a directory. "
        "Give the weights file, or name the directory itself as the model."
    )


def test_unknown_suffix(tmp_path: Path) -> None:
    path = tmp_path / "w.npz"
    path.write_bytes(b"PK")
    assert error_of(path) == (
        f"cannot read weights {path}: unknown kind of file '.npz'. "
        "Give one of .safetensors, .pth, .pt, .bin, .ckpt, .tar."
    )


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_text_named_as_weights(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("<!DOCTYPE html>\n<html>Not found</html>")
    assert error_of(path) == (
        f'cannot read weights {path}: it is a text file that starts with "<!DOCTYPE html>". '
        "Copy or download the weights again."
    )


def test_git_lfs_pointer(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n")
    assert error_of(path) == (
        f'cannot read weights {path}: it is a Git LFS pointer, not the weights. Run "git lfs pull" beside it.'
    )


def test_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    path.touch()
    assert error_of(path) == f"cannot read weights {path}: the file is empty. Copy or download it again."


@pytest.mark.parametrize("kept", [0.01, 0.3, 0.9])
@pytest.mark.parametrize("kind", ["safetensors", "pth", "bin"])
def test_truncated_file(tmp_path: Path, kind: str, kept: float) -> None:
    path = tmp_path / f"w.{kind}"
    weights = {"a": torch.ones(500), "b": torch.ones(500)}
    if kind == "safetensors":
        save_file(weights, path)
    else:
        torch.save(weights, path, _use_new_zipfile_serialization=kind == "pth")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    assert error_of(path) == (
        f"cannot read weights {path}: the file is truncated or damaged. Copy or download it again."
    )


def test_pickled_module_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(torch.nn.Linear(2, 2), path)
    assert error_of(path) == (
        f"cannot read weights {path}: it needs code to open (torch.nn.modules.linear.Linear), and code stored "
        "in a weights file is not run. Save the weights alone: torch.save(model.state_dict(), path)."
    )


class Command:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("exit 1",)


def test_pickled_command_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"model": Command()}, path)
    assert error_of(path) == (
        f"cannot read weights {path}: it needs code to open ({os.name}.system), and code stored "
        "in a weights file is not run. Save the weights alone: torch.save(model.state_dict(), path)."
    )


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [1, 2], {"model": {}}])
def test_file_without_tensors(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "w.pth"
    torch.save(content, path)
    assert error_of(path) == (
        f"cannot read weights {path}: it holds no weights. "
        "Save the model's state dict: torch.save(model.state_dict(), path)."
    )


def test_nan_names_the_first_tensor_and_counts(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    bad = torch.tensor([float("nan"), 1.0, float("inf")])
    save_file({"a": torch.ones(2), "b": bad, "c": bad[:1].clone()}, path)
    assert error_of(path) == (
        f"cannot use weights {path}: b holds 2 NaN or infinite values (2 of 3 tensors hold any). "
        "Give a checkpoint from before training diverged."
    )


@pytest.mark.parametrize(
    ("tensor", "why"),
    [
        (torch.zeros(1).expand(2**34), "claims 64.0 GiB, more than the file holds"),
        (torch.eye(3).to_sparse(), "is sparse"),
        (torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8), "is quantized"),
        (torch.empty(3, device="meta"), "has no values"),
    ],
    ids=["expanded", "sparse", "quantized", "meta"],
)
def test_tensors_that_are_no_plain_weights_are_refused(
    tmp_path: Path, tensor: torch.Tensor, why: str
) -> None:
    torch.save({**WEIGHTS, "head.weight": tensor}, tmp_path / "w.pth")
    assert f"head.weight {why}" in error_of(tmp_path / "w.pth")


@pytest.mark.parametrize("tensors", [{}, WEIGHTS], ids=["alone", "with tensors"])
def test_a_pickle_that_holds_itself_ends(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    content: dict[str, Any] = dict(tensors)
    content["model"] = content
    torch.save(content, tmp_path / "w.pth")
    try:
        assert read_checkpoint(tmp_path / "w.pth").weights.keys() == WEIGHTS.keys()
    except InputError as error:
        assert not tensors, error


def test_tensors_are_copied_out_of_the_file_aligned(tmp_path: Path) -> None:
    save_file({"a": torch.ones(3, dtype=torch.float16), "b": torch.ones(5)}, tmp_path / "w.safetensors")
    for tensor in read_checkpoint(tmp_path / "w.safetensors").weights.values():
        assert tensor.data_ptr() % 64 == 0
