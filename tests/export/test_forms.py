"""Functions of torch in other forms compute the same for any valid shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from edgevit.export import export_onnx, export_program
from edgevit.export.forms import PlainLinears, PlainOperations, PlainWindows


@st.composite
def windows(draw: st.DrawFn) -> dict[str, Any]:
    """A picture's shape and windows that fit on it."""
    cells, spread, steps, pads, lengths = [], [], [], [], []
    for _ in range(2):
        cell, gap = draw(st.integers(1, 4)), draw(st.integers(1, 3))
        pad = draw(st.integers(0, 3))
        least = max(1, gap * (cell - 1) + 1 - 2 * pad)
        cells.append(cell), spread.append(gap), pads.append(pad)
        steps.append(draw(st.integers(1, 3)))
        lengths.append(draw(st.integers(least, least + 6)))
    return {
        "shape": (draw(st.integers(1, 2)), draw(st.integers(1, 4)), *lengths),
        "windows": {
            "kernel_size": tuple(cells),
            "dilation": tuple(spread),
            "padding": tuple(pads),
            "stride": tuple(steps),
        },
    }


@given(windows(), st.booleans())
@settings(deadline=None, max_examples=150)
def test_windows_taken_apart_and_summed_again(case: dict[str, Any], grouped: bool) -> None:
    image = torch.randn(case["shape"], generator=torch.Generator().manual_seed(0))
    parts = functional.unfold(image, **case["windows"])
    whole = functional.fold(parts, case["shape"][2:], **case["windows"])
    with PlainWindows(grouped=grouped):
        ours = functional.unfold(image, **case["windows"])
        again = functional.fold(parts, case["shape"][2:], **case["windows"])
    torch.testing.assert_close(ours, parts, atol=0, rtol=0)
    torch.testing.assert_close(again, whole)


@pytest.mark.parametrize("kernel", [3, (3, 2)])
def test_one_picture_without_a_batch_is_taken_too(kernel: Any) -> None:
    image = torch.randn(2, 7, 6)
    with PlainWindows(grouped=True):
        ours = functional.unfold(image, kernel)
        back = functional.fold(ours, (7, 6), kernel)
    torch.testing.assert_close(ours, functional.unfold(image, kernel))
    torch.testing.assert_close(back, functional.fold(ours, (7, 6), kernel))


class Outlook(nn.Module):
    """VOLO's way: windows taken apart, weighed, and summed where they overlap."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        parts = functional.unfold(image, 3, padding=1, stride=2)
        out: torch.Tensor = functional.fold(parts * parts.softmax(1), image.shape[2:], 3, 1, 1, 2)
        return out.mean((2, 3))


def test_exported_graphs_have_convolutions_for_windows(tmp_path: Path) -> None:
    graph = onnx.load(export_onnx(Outlook(), (8, 8), 3, tmp_path / "model.onnx"))
    kinds = {node.op_type for node in graph.graph.node}
    assert {"Conv", "ConvTranspose"} <= kinds and not {"Col2Im", "Gather", "GatherElements"} & kinds
    program = torch.export.load(export_program(Outlook(), (8, 8), 3, tmp_path / "model.pt2"))
    assert not any("col" in str(node.target) for node in program.graph.nodes)
    image = torch.randn(1, 8, 8, 3)
    torch.testing.assert_close(program.module()(image), Outlook()(image.permute(0, 3, 1, 2)))


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
@settings(deadline=None, max_examples=30)
def test_pools_of_cells_that_differ(height: int, width: int, rows: int, columns: int) -> None:
    image = torch.randn(2, 3, height, width)
    expected = functional.adaptive_avg_pool2d(image, (rows, columns))
    with PlainOperations():
        ours = functional.adaptive_avg_pool2d(image, (rows, columns))
    torch.testing.assert_close(ours, expected)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 3), st.integers(-3, 2))
@settings(deadline=None, max_examples=30)
def test_sliding_windows(length: int, size: int, step: int, axis: int) -> None:
    image = torch.randn(length, length, length)
    size = min(size, length)
    with PlainOperations():
        ours = image.unfold(axis, size, step)
    torch.testing.assert_close(ours, image.unfold(axis, size, step), atol=0, rtol=0)


class Refused(nn.Module):
    """What torch's older exporter has no way to write, each of them met in a published model."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(6)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        pooled = functional.adaptive_avg_pool2d(image, (None, 6))
        windows: torch.Tensor = self.norm(pooled).unfold(2, 3, 2)
        return windows.mean((2, 3, 4))


def test_what_the_exporter_refuses_is_exported(tmp_path: Path) -> None:
    module = Refused().eval()
    nn.init.normal_(module.norm.weight)
    image = torch.randn(1, 3, 8, 8)
    session = onnxruntime.InferenceSession(export_onnx(module, (8, 8), 3, tmp_path / "model.onnx"))
    (found,) = session.run(None, {"input": image.numpy()})
    with torch.inference_mode():
        expected = module(image)
        program = torch.export.load(export_program(module, (8, 8), 3, tmp_path / "model.pt2")).module()
        torch.testing.assert_close(program(image.permute(0, 2, 3, 1)), expected)
    torch.testing.assert_close(torch.from_numpy(found), expected)


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 6), st.booleans(), st.booleans())
@settings(deadline=None, max_examples=15)
def test_a_convolution_over_a_line_that_only_mixes_channels(
    channels: int, outputs: int, length: int, biased: bool, batched: bool
) -> None:
    layer = nn.Conv1d(channels, outputs, 1, bias=biased)
    line = torch.randn(*([2] if batched else []), channels, length)
    with PlainLinears():
        product = torch.export.export(layer, (line,), strict=False)
    assert not any("conv1d" in str(node.target) for node in product.graph.nodes)
    torch.testing.assert_close(product.module()(line), layer(line))


@pytest.mark.parametrize("more", [{"kernel_size": 3}, {"stride": 2}, {"padding": 1}, {"groups": 2}])
def test_a_convolution_over_a_line_that_does_more_stays_one(more: dict[str, Any]) -> None:
    layer, line = nn.Conv1d(4, 6, **{"kernel_size": 1, **more}), torch.randn(1, 4, 9)
    with PlainLinears():
        torch.testing.assert_close(
            layer(line),
            functional.conv1d(
                line, layer.weight, layer.bias, *((layer.stride, layer.padding, layer.dilation, layer.groups))
            ),
        )
