from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from edgevit.errors import InputError
from edgevit.models import load_model
from tests.vits import same_function

SOURCE = """
import torch
from torch import nn
from edgevit import torch_setup
from timm.models.vision_transformer import VisionTransformer
from neighbour import CLASSES


def build_plain():
    return VisionTransformer(img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=2, num_classes=CLASSES)


def build_generic():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 6)).half()
    model.preprocessing = {"size": (40, 48), "mean": [0.1, 0.2, 0.3], "resize_to": 64}
    return model


def build_typo():
    model = build_generic()
    model.preprocessing = {"sise": (40, 48)}
    return model


def build_features():
    return VisionTransformer(img_size=32, patch_size=8, embed_dim=24, depth=1, num_heads=2, num_classes=0)


def raises():
    raise ValueError("no such\\nfile")


def leaves():
    raise SystemExit(3)


def gives_text():
    return "model"


class Broken(nn.Module):
    def forward(self, x):
        return x @ x.new_zeros(7, 7)


class Pair(nn.Module):
    def forward(self, x):
        return x, x
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "neighbour.py").write_text("CLASSES = 4\n")
    path = tmp_path / "zoo.py"
    path.write_text(SOURCE)
    return path


def error_of(*args: Any, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        load_model(*args, **options)
    return str(caught.value)


def test_plain_vit_is_canonical_and_its_neighbours_import(file: Path) -> None:
    loaded = load_model(f"{file}:build_plain")
    assert loaded.canonical
    assert loaded.num_classes == 4
    assert loaded.preprocessing.size == (32, 32)
    assert loaded.notes == (
        "preprocessing assumed: 32x32, ImageNet mean and deviation "
        "(set a `preprocessing` attribute on the module to change it)",
    )


def test_any_module_loads_in_float32_with_its_own_preprocessing(file: Path) -> None:
    loaded = load_model(f"{file}:build_generic")
    assert (loaded.num_classes, loaded.canonical) == (6, False)
    assert loaded.preprocessing.size == (40, 48)
    assert loaded.preprocessing.mean == (0.1, 0.2, 0.3)
    assert loaded.preprocessing.resize_to == 64
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in loaded.module.parameters())
    assert load_model(f"{file}:build_generic", size=(20, 20)).preprocessing.size == (20, 20)


def test_weights_file_replaces_the_weights(file: Path, tmp_path: Path) -> None:
    first = load_model(f"{file}:build_plain").module
    torch.save({"model": first.state_dict()}, tmp_path / "w.pth")
    second = load_model(f"{file}:build_plain", tmp_path / "w.pth").module
    images = torch.randn(1, 3, 32, 32)
    same_function(first(images), second(images))


def test_errors_of_the_users_code_name_file_and_line(file: Path) -> None:
    raising = SOURCE.splitlines().index('    raise ValueError("no such\\nfile")') + 1
    assert error_of(f"{file}:raises") == (
        f"cannot load {file}:raises: it raised ValueError: no such (zoo.py:{raising}). "
        "Fix the file; the function is called without arguments."
    )
    assert error_of(f"{file}:leaves") == (
        f"cannot load {file}:leaves: it raised SystemExit: 3 (zoo.py:{raising + 4}). "
        "Fix the file; the function is called without arguments."
    )
    assert error_of(f"{file}:Broken").startswith(
        f"cannot run {file}:Broken on a 1x3x224x224 input: RuntimeError: "
    )
    file.write_text("def f(:\n")
    assert error_of(f"{file}:f") == (
        f"cannot load {file}:f: it raised SyntaxError: invalid syntax (zoo.py, line 1) (zoo.py:1). "
        "Fix the file; the function is called without arguments."
    )
    file.write_text("import absent_package\n")
    assert error_of(f"{file}:f") == (
        f"cannot load {file}:f: it raised ModuleNotFoundError: No module named 'absent_package' (zoo.py:1). "
        "Fix the file; the function is called without arguments."
    )


def test_refusals(file: Path) -> None:
    assert error_of(f"{file}:build_plane") == (
        f"cannot load {file}:build_plane: zoo.py has no 'build_plane'. Did you mean build_plain."
    )
    assert error_of(str(file)) == (
        f"cannot load {file}: it names no function. Write {file}:function, a function without arguments."
    )
    absent = file.with_name("absent.py")
    assert error_of(f"{absent}:f") == f"cannot load {absent}:f: no such file {absent}. Check the path."
    assert error_of(f"{file}:gives_text") == (
        f"cannot load {file}:gives_text: gives_text() returned str, not a torch.nn.Module. "
        "Return the model itself."
    )
    assert error_of(f"{file}:build_plain", num_classes=9) == (
        f"cannot load {file}:build_plain with 9 classes: it gives 4 logits. "
        "Ask for 4 classes, or give the weights of a model with 9."
    )
    assert error_of(f"{file}:build_typo").startswith(
        f"cannot load {file}:build_typo: its preprocessing attribute is not valid (TypeError: "
    )


def test_two_files_have_neighbours_of_one_name(tmp_path: Path) -> None:
    """In one process, as in a notebook: each file gets its own, and an edited one is read again."""
    for name, classes in (("one", 3), ("two", 5)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "neighbour.py").write_text(f"CLASSES = {classes}\n")
        (folder / "model.py").write_text(SOURCE)
    first, second = (load_model(f"{tmp_path / name}/model.py:build_plain") for name in ("one", "two"))
    assert (first.num_classes, second.num_classes) == (3, 5)
    (tmp_path / "two" / "neighbour.py").write_text("CLASSES = 70\n")
    assert load_model(f"{tmp_path / 'two'}/model.py:build_plain").num_classes == 70
    assert str(tmp_path / "one") not in sys.path
