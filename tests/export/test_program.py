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
