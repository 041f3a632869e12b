"""`edgevit prune-report`: every head has a price, and whatever stands in the way is one line."""

from __future__ import annotations

import json

import pytest

from tests.conversion.conftest import Project

from tests.conversion.conftest import project  # noqa: F401  isort: skip


def test_every_head_has_a_price_and_a_picture(project: Project) -> None:  # noqa: F811
    report = ("prune-report", "model.py:tiny", "--calibration", "images/calibration")
    done = project.run(*report, "--plot", "heads.svg")
    assert "2 held-out images" in " ".join(done.stdout.split())
    assert "removing the cheapest heads" in done.stdout
    assert (project.folder / "heads.svg").read_text().startswith("<?xml")
    found = json.loads(project.run(*report, "--json").stdout)
    assert [(price["block"], price["head"]) for price in found["prices"]] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert found["cheapest"] == sorted(found["cheapest"]) and len(found["cheapest"]) == 2
    assert not (project.folder / "model-heads.png").exists()


def test_attention_is_found_in_any_model(project: Project) -> None:  # noqa: F811
    wrapped = """
from torch import nn
from model import tiny

class Wrapper(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.out = tiny(), nn.Linear(3, 3)

    def forward(self, x):
        return self.out(self.inner(x))

def wrapper():
    return Wrapper()
"""
    (project.folder / "wrapped.py").write_text(wrapped)
    sizes = (
        "prune-report",
        "wrapped.py:wrapper",
        "--calibration",
        "images/calibration",
        "--input-size",
        "32",
        "--json",
    )
    found = json.loads(project.run(*sizes).stdout)
    assert found["names"] == ["inner.blocks.0.attn", "inner.blocks.1.attn"]
    assert [(price["block"], price["head"]) for price in found["prices"]] == [(0, 0), (0, 1), (1, 0), (1, 1)]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ("prune-report", "model.py:tiny"),
            "cannot price the attention heads: no calibration images. "
            "Pass --calibration with a folder or CSV of 64 or more typical images.",
        ),
        (
            ("prune-report", "--plot", "heads.pdf"),
            "cannot draw heads.pdf: it is neither a .png nor a .svg. Name it heads.png.",
        ),
    ],
)
def test_what_cannot_be_priced_is_refused(
    project: Project,  # noqa: F811
    arguments: tuple[str, ...],
    line: str,
) -> None:
    assert project.run(*arguments, check=1).stderr.splitlines()[-1] == f"error: {line}"
