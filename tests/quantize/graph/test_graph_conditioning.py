"""A graph with massive activations in its residual stream fits int8 once the stream is rotated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from edgevit.conversion.graph_conditioning import condition_file
from edgevit.images.preprocessing import Preprocessing
from edgevit.models.model import finish
from edgevit.outputs.output import CLASS_SCORES
from edgevit.progress import QUIET
from edgevit.quantize.graph.conditioning import PARTS, Conditioned
from edgevit.rewrites.graph.apply import outputs_of
from tests.rewrites.graph.graphs import Classifier, graph_of, noise
from tests.rewrites.graph.test_streams import PreNorm

SIDE = 6


def model(*, massive: bool) -> PreNorm:
    """A pre-norm classifier; `massive`: one channel of the stream is hundreds of times the others."""
    torch.manual_seed(0)
    made = PreNorm(24, 3, 3, "first", token=True, before=False, scaled=False, bias=True, windows=False).eval()
    if massive:
        with torch.no_grad():
            made.positions[0, 1, 5] += 400
    return made


def condition(graph: onnx.ModelProto, images: torch.Tensor) -> Conditioned:
    """Everything that is done to a graph."""
    found = Conditioned(graph, ())
    for part in PARTS.values():
        more = part(found.graph, images, 0, CLASS_SCORES)
        found = Conditioned(more.graph, found.steps + more.steps)
    return found


@pytest.mark.slow
def test_massive_activations_are_spread_and_the_function_stays() -> None:
    graph = graph_of(model(massive=True), 1, 3, SIDE, SIDE)
    images = noise(32, 3, SIDE, SIDE)
    found = condition(graph, torch.from_numpy(images))
    kept = {step.name: step for step in found.steps if step.kept}
    assert kept["rotation"].after.kl < 0.3 * kept["rotation"].before.kl
    ours, theirs = outputs_of(found.graph, images[:4])[0], outputs_of(graph, images[:4])[0]
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)
    again = condition(graph, torch.from_numpy(images))
    assert again.graph.SerializeToString() == found.graph.SerializeToString()


def test_the_only_norm_may_give_the_output() -> None:
    class One(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches, self.norm = torch.nn.Conv2d(3, 24, 2, 2), torch.nn.LayerNorm(24)
            self.into = torch.nn.ModuleList(torch.nn.Linear(24, 600) for _ in range(2))
            self.out = torch.nn.Linear(600, 24)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            x = self.patches(image).flatten(2).transpose(1, 2)
            for layer in self.into:
                x = x + self.out(layer(x).relu())
            return self.norm(x)

    torch.manual_seed(0)
    made = One().eval()
    with torch.no_grad():
        made.patches.bias[3] += 300  # type: ignore[operator]
    graph, images = graph_of(made, 1, 3, SIDE, SIDE), noise(16, 3, SIDE, SIDE)
    found = condition(graph, torch.from_numpy(images))
    assert [step.name for step in found.steps] == ["rotation"]
    ours, theirs = outputs_of(found.graph, images[:2])[0], outputs_of(graph, images[:2])[0]
    np.testing.assert_allclose(ours, theirs, rtol=1e-2, atol=1e-2)


def post_norm() -> Classifier:
    """The textbook's post-norm ViT, which has no stream to turn; some of its values are far from zero."""
    torch.manual_seed(0)
    made = Classifier("packed", patch=3, grid=2, dim=12, heads=3).eval()
    with torch.no_grad():
        made.blocks[0].qkv.bias[24:27] += 60.0  # type: ignore[index]
    return made


def test_without_a_stream_the_attentions_are_made_ready_alone() -> None:
    graph, images = graph_of(post_norm(), 1, 3, SIDE, SIDE), noise(32, 3, SIDE, SIDE)
    found = condition(graph, torch.from_numpy(images))
    steps = {step.name: step for step in found.steps}
    assert list(steps) == ["shift-values", "centre-keys", "equalise-values", "equalise-queries"]
    assert steps["shift-values"].kept
    assert steps["shift-values"].after.kl < 0.5 * steps["shift-values"].before.kl
    ours, theirs = outputs_of(found.graph, images[:4])[0], outputs_of(graph, images[:4])[0]
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)


def test_values_of_which_one_channel_is_far_wider_are_evened_out() -> None:
    made = post_norm()
    with torch.no_grad():
        made.blocks[0].qkv.bias[24:27] -= 60.0  # type: ignore[index]
        for block in made.blocks:
            block.qkv.weight[25] *= 60.0  # type: ignore[index,union-attr]
            block.proj.weight[:, 1] /= 60.0  # type: ignore[index,union-attr]
    found = condition(graph_of(made, 1, 3, SIDE, SIDE), torch.from_numpy(noise(32, 3, SIDE, SIDE)))
    step = next(each for each in found.steps if each.name == "equalise-values")
    assert step.kept
    assert step.after.kl < 0.5 * step.before.kl


def test_a_graph_with_neither_stays_as_it_is() -> None:
    torch.manual_seed(0)
    made = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten()).eval()
    graph = graph_of(made, 1, 3, SIDE, SIDE)
    found = condition(graph, torch.from_numpy(noise(16, 3, SIDE, SIDE)))
    assert found.steps == ()
    assert found.graph is graph


def test_with_few_images_nothing_is_done_and_it_is_said(tmp_path: Path) -> None:
    loaded = finish("mine", model(massive=True), Preprocessing((SIDE, SIDE)), source="a test")
    path, few = tmp_path / "model.onnx", noise(2, 3, SIDE, SIDE)
    onnx.save(graph_of(loaded.module, 1, 3, SIDE, SIDE), path)
    written = path.read_bytes()
    pixels = np.zeros((4, SIDE, SIDE, 3), np.uint8)
    record, steps = condition_file(path, loaded, pixels, 0, few, QUIET)
    assert steps == ()
    assert (record.changed, record.what) == (
        False,
        "left out: 4 calibration images are too few to tell whether it helps",
    )
    assert path.read_bytes() == written


@pytest.mark.slow
def test_a_graph_in_a_file_is_conditioned_there_and_proved(tmp_path: Path) -> None:
    loaded = finish("mine", model(massive=True), Preprocessing((SIDE, SIDE)), source="a test")
    path, few = tmp_path / "model.onnx", noise(2, 3, SIDE, SIDE)
    onnx.save(graph_of(loaded.module, 1, 3, SIDE, SIDE), path)
    before = outputs_of(onnx.load(path), few)[0]
    pixels = np.random.default_rng(0).integers(0, 256, (32, SIDE, SIDE, 3), dtype=np.uint8)
    record, steps = condition_file(path, loaded, pixels, 0, few, QUIET)
    assert [step.what for step in steps if step.kept] == record.what.split("; ")
    assert record.changed
    assert record.what.startswith("residual stream of 24 channels: ")
    np.testing.assert_allclose(outputs_of(onnx.load(path), few)[0], before, rtol=1e-3, atol=1e-3)


def test_a_part_that_fails_leaves_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> Conditioned:
        raise ValueError("no such axis\nmore")

    monkeypatch.setitem(PARTS, "streams", fails)
    loaded = finish("mine", post_norm(), Preprocessing((SIDE, SIDE)), source="a test")
    path, few = tmp_path / "model.onnx", noise(2, 3, SIDE, SIDE)
    onnx.save(graph_of(loaded.module, 1, 3, SIDE, SIDE), path)
    pixels = np.random.default_rng(0).integers(0, 256, (32, SIDE, SIDE, 3), dtype=np.uint8)
    record, _ = condition_file(path, loaded, pixels, 0, few, QUIET)
    assert record.changed
    assert record.what.startswith("2 attentions: ")
    assert record.what.endswith("; streams left out, it fails on this graph: no such axis")
