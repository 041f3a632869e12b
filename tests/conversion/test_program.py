"""A program for converters that start from PyTorch, also of models that torch.export can't follow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgevit.conversion.reference import write_program
from edgevit.errors import EdgevitError
from edgevit.export import parity
from edgevit.models import load_model

MODEL = """
import torch

class Wary(torch.nn.Module):
    preprocessing = {"size": (32, 32)}

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.head = torch.nn.Conv2d(3, 8, 4, 4), torch.nn.Linear(8, 5)

    def forward(self, image):
        if float(image.abs().max()) > 1e9:  # a decision about numbers: no program has it, a trace takes one side
            raise ValueError("not an image")
        return WHAT(self.head(torch.nn.functional.gelu(self.layer(image)).mean((2, 3))))
"""


def model(folder: Path, what: str) -> str:
    (folder / "wary.py").write_text(MODEL.replace("WHAT", what))
    return f"{folder / 'wary.py'}:Wary"


def test_what_torch_export_refuses_goes_by_way_of_its_graph(tmp_path: Path) -> None:
    loaded = load_model(model(tmp_path, "torch.tanh"))
    path = write_program(loaded, loaded.module, tmp_path / "model.pt2")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    assert parity(path, loaded.module, pixels, loaded.preprocessing) < 1e-4


def test_what_neither_way_takes_is_said_by_the_usual_one(tmp_path: Path) -> None:
    loaded = load_model(model(tmp_path, "(lambda x: torch.hypot(x, x))"))
    with pytest.raises(EdgevitError, match="cannot export the model to a torch.export program"):
        write_program(loaded, loaded.module, tmp_path / "model.pt2")
