"""torch to a saved torch.export program, which LiteRT's converter reads in its own environment."""

from __future__ import annotations

import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from edgevit.export.forms import PlainLinears, PlainOperations, PlainWindows
from edgevit.export.onnx_graph import not_exportable, unfused_attention
from edgevit.files import atomic_path


class ChannelsLast(nn.Module):
    """Takes [batch, height, width, channels], the layout of cameras and of LiteRT's convolutions."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, image: torch.Tensor) -> Any:
        """What the module gives."""
        return self.module(image.permute(0, 3, 1, 2))


def export_program(module: nn.Module, size: tuple[int, int], channels: int, out: Path) -> Path:
    """Write a module as a .pt2 that takes float32 [1, height, width, channels] normalised.

    The same module gives the same bytes. Raises EdgevitError naming what can't be exported.
    """
    example = torch.zeros(1, *size, channels)
    forms = PlainLinears(), PlainOperations(), PlainWindows(grouped=False)
    with unfused_attention(module), forms[0], forms[1], forms[2], warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            program = torch.export.export(ChannelsLast(module).eval(), (example,), strict=False)
        except Exception as error:
            raise not_exportable("a torch.export program", error) from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # where this machine keeps its Python files
    # The archive's entries carry the file's name, so it is written under a name that never varies.
    with TemporaryDirectory(dir=out.parent, prefix=".export-") as folder, atomic_path(out) as staging:
        torch.export.save(program, Path(folder) / "model.pt2")
        (Path(folder) / "model.pt2").replace(staging)
    return out
