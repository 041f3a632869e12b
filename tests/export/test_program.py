"""Saved programs for LiteRT: camera layout, reproducible bytes, nothing of this machine inside."""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch

from edgevit.export import export_program
from edgevit.files import sha256_file

from .test_export import tiny


def test_program_takes_one_image_with_channels_last(tmp_path: Path) -> None:
    model = tiny()
    module = torch.export.load(export_program(model, (32, 48), 3, tmp_path / "model.pt2")).module()
    image = torch.randn(1, 32, 48, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(module(image), model(image.permute(0, 3, 1, 2)))


def test_same_model_gives_the_same_program_bytes_under_any_name(tmp_path: Path) -> None:
    first, second = (
        sha256_file(export_program(tiny(), (32, 48), 3, tmp_path / name)) for name in ("a.pt2", "b.pt2")
    )
    assert first == second
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pt2", "b.pt2"]


def test_program_does_not_tell_where_python_lives(tmp_path: Path) -> None:
    path = export_program(tiny(), (32, 48), 3, tmp_path / "model.pt2")
    with zipfile.ZipFile(path) as archive:
        graph = next(name for name in archive.namelist() if name.endswith("models/model.json"))
        assert Path(torch.__file__).parents[1].as_posix() not in archive.read(graph).decode()


class Grouped(torch.nn.Module):
    """Linear layers and norms over four and five dimensions, as MobileViT's papers write them."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.head = torch.nn.Linear(3, 12, bias=False), torch.nn.Linear(4, 5)
        self.norm = torch.nn.LayerNorm(4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        pixels = image.unfold(2, 2, 2).unfold(3, 2, 2).permute(0, 4, 5, 2, 3, 1).flatten(3, 4)  # b 2 2 n c
        q, k, v = self.qkv(pixels.flatten(1, 2)).chunk(3, dim=-1)  # b p n 4
        mixed = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        out: torch.Tensor = self.head(self.norm(mixed)).mean((1, 2))
        return out


def test_linear_layers_and_norms_over_many_dimensions_become_flat_ones(tmp_path: Path) -> None:
    model = Grouped().eval()
    program = torch.export.load(export_program(model, (8, 8), 3, tmp_path / "model.pt2"))
    image = torch.randn(1, 8, 8, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(program.module()(image), model(image.permute(0, 3, 1, 2)), atol=0, rtol=0)
    given = [node.args[0].meta["val"].ndim for node in program.graph.nodes if "linear" in str(node.target)]
    assert given == [2, 2]
    norms = [
        node.args[0].meta["val"].ndim for node in program.graph.nodes if "layer_norm" in str(node.target)
    ]
    assert norms == [2]
