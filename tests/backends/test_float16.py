"""What float16 does to a graph by itself: small for a usual one, infinite beyond what it holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import shape_inference

from edgevit.backends.float16 import largest_value, own_error, stored
from edgevit.export import export_onnx
from edgevit.export.parity import run_onnx
from tests.backends.test_divergence import chain
from tests.vits import random_vit

IMAGES = np.random.default_rng(0).standard_normal((3, 3, 32, 32)).astype(np.float32)


def test_a_usual_model_moves_by_a_thousandth(tmp_path: Path) -> None:
    graph = export_onnx(random_vit(embed_dim=48), (32, 32), 3, tmp_path / "model.onnx")
    assert 1e-5 < own_error(graph, IMAGES, run_onnx(graph, IMAGES)) < 0.01


def test_every_tensor_is_rounded(tmp_path: Path) -> None:
    model = shape_inference.infer_shapes(onnx.load(chain(tmp_path)))
    before = len(model.graph.node)
    kinds = [node.op_type for node in stored(model).graph.node]
    assert kinds.count("Cast") == 2 * before and len(kinds) == 3 * before


@pytest.mark.parametrize(("scale", "finite"), [(100.0, True), (3e4, False)])
def test_values_beyond_float16_make_it_infinite(tmp_path: Path, scale: float, finite: bool) -> None:
    graph, images = chain(tmp_path, scale), IMAGES[:, :, :4, :4].copy()
    error = own_error(graph, images, run_onnx(graph, images))
    assert np.isfinite(error) == finite


def test_the_largest_value_and_its_node(tmp_path: Path) -> None:
    images = np.full((2, 3, 4, 4), -3.0, np.float32)
    images[1, 0, 0, 0] = 93.0
    node, largest = largest_value(chain(tmp_path, scale=1000.0), images)
    assert (node, largest) == ("node11", 100_004.0)
