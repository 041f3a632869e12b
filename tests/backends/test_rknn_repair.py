"""A rule of the toolkit that breaks a float graph is found and left out; then the artefact computes the model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edgevit.backends.proof import TOLERANCE
from edgevit.backends.protocol import CompileRequest
from edgevit.backends.rknn.backend import RKNN
from edgevit.export import export_onnx
from edgevit.images.preprocessing import Preprocessing
from edgevit.progress import Quiet
from edgevit.quantize.plan import PrecisionPlan
from edgevit.targets.profiles import load_board
from tests.mobilevit import mobilevit
from tests.vits import random_vit

pytestmark = [pytest.mark.toolchain, pytest.mark.slow]


def request(module: torch.nn.Module, side: int, folder: Path) -> CompileRequest:
    pixels = np.random.default_rng(0).integers(0, 256, (4, side, side, 3), dtype=np.uint8)
    np.save(folder / "pixels.npy", pixels)
    return CompileRequest(
        onnx=export_onnx(module, (side, side), 3, folder / "model.onnx", for_npu=True),
        vendor_float=None,
        plan=PrecisionPlan(),
        board=load_board("rk3588"),
        preprocessing=Preprocessing((side, side)),
        calibration=folder / "pixels.npy",
        evaluate=folder / "pixels.npy",
        out=folder,
    )


def test_the_rule_that_breaks_mobilevits_attention_is_left_out(tmp_path: Path) -> None:
    assert RKNN.prove is not None
    progress = Quiet()
    proof = RKNN.prove(request(mobilevit(), 64, tmp_path), progress)
    assert proof.error > TOLERANCE and proof.right
    assert proof.repaired is not None and proof.repaired < 0.005
    assert set(proof.left_out) <= {
        "fuse_multihead_attention_reshape_to_gather_split",
        "replace_parallel_slice_by_split",
    }
    assert "the compiled graph computes something else" in progress.warnings[0]
    assert not (tmp_path / "for-vendor").exists()


def test_a_plain_vit_is_right_as_built(tmp_path: Path) -> None:
    assert RKNN.prove is not None
    proof = RKNN.prove(request(random_vit(embed_dim=48), 32, tmp_path), Quiet())
    assert (proof.builds, proof.left_out) == (1, ()) and proof.error < 0.01
