"""A rule of the toolkit that breaks a float graph is found and left out; then the artefact computes the model."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from edgevit.backends.onnxruntime import backend as onnxruntime
from edgevit.backends.proof import TOLERANCE
from edgevit.backends.protocol import CompileRequest
from edgevit.backends.rknn import repair
from edgevit.backends.rknn.backend import RKNN
from edgevit.backends.rknn.build import Build
from edgevit.export import export_onnx
from edgevit.images.preprocessing import Preprocessing
from edgevit.progress import Quiet
from edgevit.quantize.plan import PrecisionPlan
from edgevit.targets.profiles import load_board
from tests.mobilevit import mobilevit
from tests.vits import random_vit


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


@pytest.mark.toolchain
@pytest.mark.slow
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


@pytest.mark.toolchain
@pytest.mark.slow
def test_a_plain_vit_is_right_as_built(tmp_path: Path) -> None:
    assert RKNN.prove is not None
    proof = RKNN.prove(request(random_vit(embed_dim=48), 32, tmp_path), Quiet())
    assert (proof.builds, proof.left_out) == (1, ()) and proof.error < 0.01


LOG = """\
D     rule_a: remove node = ['x']
D     rule_b: remove node = ['y'], add node = ['z']
D     rule_a: remove node = ['v']
"""


def toolkit(monkeypatch: pytest.MonkeyPatch, right: Any) -> list[tuple[list[str], int | None]]:
    """Stands in for builds: outputs are the float ones where `right` says so of rules and level, else zeros."""
    asked: list[tuple[list[str], int | None]] = []

    def simulated(arguments: dict[str, Any], images: Path, job: Path, progress: Any) -> Any:
        rules, level = (
            arguments.get("disable_rules", []),
            arguments.get("config", {}).get("optimization_level"),
        )
        asked.append((rules, level))
        pixels, values = np.load(images), arguments["values"]
        expected = onnxruntime.run(Path(values), pixels, Preprocessing((32, 32)), Quiet())
        found = expected if right(rules, level) else np.zeros_like(expected)
        return Build({"toolkit": "made up"}, LOG, ()), found

    monkeypatch.setattr(repair, "simulated", simulated)
    monkeypatch.setattr(repair, "parse_log", lambda log: SimpleNamespace(cycles=100))
    return asked


@pytest.mark.parametrize(
    ("right", "options"),
    [
        (lambda rules, level: "rule_b" in rules, {"disable_rules": ["rule_b"]}),
        (lambda rules, level: level == 1, {"optimization_level": 1}),
    ],
)
def test_rules_are_tried_before_optimization_levels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, right: Any, options: dict[str, Any]
) -> None:
    asked = request(random_vit(embed_dim=48), 32, tmp_path)
    toolkit(monkeypatch, right)
    proof = repair.prove(asked, {"values": str(asked.onnx)}, Quiet())
    assert proof.right and proof.options == options and proof.cycles == (100, 100)


def test_what_nothing_mends_leaves_a_folder_for_the_vendor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = request(random_vit(embed_dim=48), 32, tmp_path)
    builds = toolkit(monkeypatch, lambda rules, level: False)
    proof = repair.prove(asked, {"values": str(asked.onnx)}, Quiet())
    assert not proof.right and proof.options == {}
    assert [level for _, level in builds if level is not None] == [2, 1, 0]
    names = {path.name for path in (tmp_path / "for-vendor").iterdir()}
    assert names == {"model.onnx", "inputs.npy", "expected.npy", "found.npy", "log.txt", "versions.json"}
    assert np.load(tmp_path / "for-vendor" / "inputs.npy").shape == (4, 3, 32, 32)
