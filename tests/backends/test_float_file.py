"""LiteRT's float file: the first way to convert whose outputs are the model's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgevit.backends.litert import float_file
from edgevit.backends.litert.float_file import PASSES, SPELLING, WAYS, convert_float
from edgevit.backends.proof import Probe
from edgevit.backends.protocol import FloatRequest
from edgevit.errors import ToolchainError
from edgevit.export import export_program
from edgevit.images.preprocessing import Preprocessing
from edgevit.progress import Quiet

EXPECTED = np.arange(12, dtype=np.float32).reshape(3, 4)
Outcome = Callable[[list[str]], float | None]


@pytest.fixture
def request_(tmp_path: Path) -> FloatRequest:
    np.save(tmp_path / "pixels.npy", np.zeros((3, 8, 8, 3), np.uint8))
    np.save(tmp_path / "expected.npy", EXPECTED)
    (tmp_path / "model.pt2").write_bytes(b"program")
    (tmp_path / "out").mkdir()
    probe = Probe(tmp_path / "pixels.npy", tmp_path / "expected.npy")
    return FloatRequest(tmp_path / "model.pt2", probe, Preprocessing((8, 8)), tmp_path / "out")


def converter(monkeypatch: pytest.MonkeyPatch, outcome: Outcome) -> list[list[str]]:
    """Stands in for the worker: the error of the outputs by what is left out, None where the conversion fails."""
    asked: list[list[str]] = []

    def run_job(toolchain: str, call: str, args: dict[str, Any], job: Path, **_: Any) -> dict[str, Any]:
        by_graph = Path(args["program"]).read_bytes() == b"graph"
        asked.append([*args["without"], *([SPELLING] if by_graph else [])])
        job.mkdir(parents=True)
        (job / "log.txt").write_text("what it printed")
        if outcome(asked[-1]) is None:
            raise ToolchainError(
                "LiteRT failed", "operands don't have broadcast-compatible shapes", "See log"
            )
        Path(args["artefact"]).write_text("|".join(asked[-1]))
        return {}

    def answers(model: Path, *_: Any) -> Any:
        error = outcome([name for name in model.read_text().split("|") if name])
        assert error is not None
        return EXPECTED * (1 + error)

    def program_by_graph(program: Path, out: Path) -> Path:
        out.write_bytes(b"graph")
        return out

    monkeypatch.setattr("edgevit.export.graph_module.program_by_graph", program_by_graph)
    monkeypatch.setattr(float_file, "run_job", run_job)
    monkeypatch.setattr(float_file, "answers", answers)
    monkeypatch.setattr(float_file.environment, "versions", lambda name: {"litert-torch": "1"})
    return asked


def test_the_usual_way_is_taken_where_it_is_right(
    request_: FloatRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = converter(monkeypatch, lambda without: 0.0)
    file, proof = convert_float(request_, Quiet())
    assert asked == [[]] and proof.right and proof.left_out == () and proof.reason is None
    assert file == request_.out / "float.tflite" and file.exists()


@pytest.mark.parametrize("usual", [None, 0.4])
@pytest.mark.parametrize("cause", [PASSES[1], SPELLING])
def test_what_fails_or_breaks_the_model_is_left_out(
    request_: FloatRequest, monkeypatch: pytest.MonkeyPatch, usual: float | None, cause: str
) -> None:
    asked = converter(monkeypatch, lambda without: 0.0 if cause in without else usual)
    progress = Quiet()
    file, proof = convert_float(request_, progress)
    assert asked == [list(way) for way in WAYS[: WAYS.index((cause,)) + 1]]
    assert (proof.right, proof.left_out, proof.builds) == (True, (cause,), len(asked))
    assert proof.reason and proof.to_json()["error"] == (None if usual is None else pytest.approx(usual))
    assert len(progress.warnings) == 1 and "trying others" in progress.warnings[0]
    assert [path.name for path in request_.out.glob("*.tflite")] == [file.name]
    assert file.read_text() == cause and not list(request_.out.glob("*.pt2"))


def test_where_every_way_fails_the_usual_ones_error_is_told(
    request_: FloatRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = converter(monkeypatch, lambda without: None)
    with pytest.raises(ToolchainError, match="broadcast-compatible"):
        convert_float(request_, Quiet())
    assert asked == [list(way) for way in WAYS] and not list(request_.out.glob("*.tflite"))


def test_where_no_way_is_right_there_is_a_folder_for_the_vendor(
    request_: FloatRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    converter(monkeypatch, lambda without: 0.3 + len(without))
    file, proof = convert_float(request_, Quiet())
    assert not proof.right and file.exists() and proof.error == pytest.approx(0.3)
    names = {path.name for path in (request_.out / "for-vendor").iterdir()}
    assert names == {"model.pt2", "inputs.npy", "expected.npy", "found.npy", "log.txt", "versions.json"}


class LinearAttention(nn.Module):
    """MobileViTv2's attention between convolutions, as timm writes it: [n, 3, 32, 32] to [n, 5]."""

    def __init__(self, dim: int = 32) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, dim, 2, 2)
        self.norm = nn.GroupNorm(1, dim)
        self.qkv, self.out = nn.Conv2d(dim, 1 + 2 * dim, 1), nn.Conv2d(dim, dim, 1)
        self.head = nn.Linear(dim, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.stem(image)
        b, c, h, w = x.shape
        x = x.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4).reshape(b, c, 4, -1)
        query, key, value = self.qkv(self.norm(x)).split([1, c, c], dim=1)
        context = (key * query.softmax(-1)).sum(dim=-1, keepdim=True)
        x = x + self.out(value.relu() * context.expand_as(value))
        out: torch.Tensor = self.head(x.mean((2, 3)))
        return out


@pytest.mark.toolchain
@pytest.mark.slow
def test_linear_attention_converts_without_the_pass_that_breaks_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, normal = LinearAttention().eval(), Preprocessing((32, 32))
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    probe = Probe(tmp_path / "pixels.npy", tmp_path / "expected.npy")
    np.save(probe.pixels, pixels)
    with torch.inference_mode():
        np.save(probe.outputs, module(torch.from_numpy(normal.normalise(pixels))).numpy())
    program = export_program(module, (32, 32), 3, tmp_path / "model.pt2")
    _, proof = convert_float(FloatRequest(program, probe, normal, tmp_path), Quiet())
    assert proof.right and proof.left_out == ("OptimizeLayoutTransposesPass",)
    assert proof.repaired is not None and proof.repaired < 1e-5
