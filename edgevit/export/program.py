"""torch to a saved torch.export program, which LiteRT's converter reads in its own environment."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import nn

from edgevit.export.onnx_graph import not_exportable, unfused_attention
from edgevit.files import atomic_path


class ChannelsLast(nn.Module):
    """Takes [batch, height, width, channels], the layout of cameras and of LiteRT's convolutions."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits [batch, classes]."""
        logits: torch.Tensor = self.module(image.permute(0, 3, 1, 2))
        return logits


def export_program(module: nn.Module, size: tuple[int, int], channels: int, out: Path) -> Path:
    """Write a module as a .pt2 that takes float32 [1, height, width, channels] normalised.

    Raises EdgevitError naming what can't be exported.
    """
    example = torch.zeros(1, *size, channels)
    with unfused_attention(module), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            program = torch.export.export(ChannelsLast(module).eval(), (example,), strict=False)
        except Exception as error:
            raise not_exportable("a torch.export program", error) from error
    with atomic_path(out) as staging:
        torch.export.save(program, staging)
    return out
