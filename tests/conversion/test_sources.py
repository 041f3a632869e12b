"""What identifies a model: everything it holds, and the user's code that computes with it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from edgevit.conversion import sources
from edgevit.request.job import DEMO, Job
from edgevit.targets.profiles import load_recipe

ZOO = """
import torch
from parts import Model

def build():
    model = Model()
    model.load_state_dict(torch.load("best.pth", weights_only=True))
    return model
"""
PARTS = """
import torch

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(3, 4)

    def forward(self, x):
        return self.head(x.mean((2, 3)))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "zoo.py").write_text(ZOO)
    (tmp_path / "parts.py").write_text(PARTS)
    (tmp_path / "notes.py").write_text("never = 'imported'\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])  # loading a file adds its folder
    return tmp_path


def identity(model: str, folder: Path) -> dict[str, Any]:
    for name in ("parts", "edgevit_user_zoo"):
        sys.modules.pop(name, None)
    job = Job(model=model, out=folder / "out", targets=(), recipe=load_recipe("vendor-default"))
    loaded = sources.load(job)
    return sources.identity(job.model, loaded, sources.files_of(job))


def save_weights(value: float) -> None:
    torch.save({"head.weight": torch.full((4, 3), value), "head.bias": torch.zeros(4)}, "best.pth")


def test_weights_that_a_function_loads_by_itself_are_part_of_it(folder: Path) -> None:
    save_weights(1.0)
    before = identity("zoo.py:build", folder)
    assert identity("zoo.py:build", folder) == before
    save_weights(2.0)
    assert identity("zoo.py:build", folder) != before


def test_the_files_it_imports_are_part_of_it_and_others_are_not(folder: Path) -> None:
    save_weights(1.0)
    before = identity("zoo.py:build", folder)
    assert set(before["files"]) == {"zoo.py", "parts.py"}
    (folder / "notes.py").write_text("never = 'changed'\n")
    assert identity("zoo.py:build", folder) == before
    (folder / "parts.py").write_text(PARTS.replace("mean((2, 3))", "amax((2, 3))"))
    assert identity("zoo.py:build", folder) != before


def test_a_folder_called_demo_is_not_the_demo(folder: Path) -> None:
    before = identity(DEMO, folder)
    (folder / "demo").mkdir()
    (folder / "demo" / "config.json").write_text("{}")
    assert identity(DEMO, folder) == before
