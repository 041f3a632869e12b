"""A rule of the toolkit that breaks a float graph is found and left out; then the artefact computes the model."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from edgevit.backends.onnxruntime import host as onnxruntime
from edgevit.backends.proof import TOLERANCE, Probe, relative_error
from edgevit.backends.protocol import CompileRequest
from edgevit.backends.rknn import repair, trials
from edgevit.backends.rknn.backend import RKNN
from edgevit.backends.rknn.build import Build
from edgevit.errors import ToolchainError, ToolFailed
from edgevit.export import export_onnx
from edgevit.images.preprocessing import Preprocessing
from edgevit.progress import Quiet
from edgevit.quantize.plan import PrecisionPlan
from edgevit.targets.profiles import load_board
from edgevit.toolchains import environment
from tests.mobilevit import mobilevit
from tests.vits import random_vit


def asked(module: torch.nn.Module, side: int, folder: Path) -> tuple[CompileRequest, Probe]:
    """A float artefact of a module with its outputs on six images, and four to prove it on."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, side, side, 3), dtype=np.uint8)
    probe = Probe(folder / "probe.npy", folder / "expected.npy")
    request = CompileRequest(
        onnx=export_onnx(module, (side, side), 3, folder / "model.onnx", for_npu=True),
        vendor_float=None,
        plan=PrecisionPlan(),
        board=load_board("rk3588"),
        preprocessing=Preprocessing((side, side)),
        calibration=probe.pixels,
        evaluate=folder / "pixels.npy",
        out=folder,
    )
    assert request.onnx is not None
    np.save(folder / "pixels.npy", pixels)
    np.save(probe.pixels, pixels[:4])
    np.save(probe.outputs, onnxruntime.run(request.onnx, pixels[:4], request.preprocessing, Quiet()))
    return request, probe


@pytest.mark.toolchain
@pytest.mark.slow
def test_the_rule_that_breaks_mobilevits_attention_is_left_out(tmp_path: Path) -> None:
    assert RKNN.prove is not None
    progress = Quiet()
    request, probe = asked(mobilevit(), 64, tmp_path)
    proof = RKNN.prove(request, probe, progress)
    assert proof.error > TOLERANCE and proof.right
    assert proof.repaired is not None and proof.repaired < 0.005
    assert set(proof.left_out) <= {
        "fuse_multihead_attention_reshape_to_gather_split",
        "replace_parallel_slice_by_split",
    }
    assert "the compiled graph computes something else" in progress.warnings[0]
    assert not (tmp_path / "for-vendor").exists()
    assert proof.made is not None and proof.made.outputs is not None and proof.made.artefact.stat().st_size
    found = np.load(proof.made.outputs)
    assert found.shape == (6, 10)  # the mended artefact's, on the images that were asked for
    assert relative_error(found[:4], np.load(probe.outputs)) < 0.005


@pytest.mark.toolchain
@pytest.mark.slow
def test_a_plain_vit_is_right_as_built(tmp_path: Path) -> None:
    assert RKNN.prove is not None
    proof = RKNN.prove(*asked(random_vit(embed_dim=48), 32, tmp_path), Quiet())
    assert (proof.builds, proof.left_out) == (1, ()) and proof.error < 0.01
    assert proof.made is not None and proof.made.how == "vendor simulator"


LOG = """\
D     rule_a: remove node = ['x']
D     rule_b: remove node = ['y'], add node = ['z']
D     rule_a: remove node = ['v']
"""


ARGUMENTS: dict[str, Any] = {"target": "rk3588"}


@pytest.fixture(autouse=True)
def no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What earlier runs found is not at hand."""
    monkeypatch.setenv("EDGEVIT_TOOLCHAINS", str(environment.root()))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def toolkit(monkeypatch: pytest.MonkeyPatch, right: Any) -> list[tuple[list[str], int | None]]:
    """Stands in for builds: outputs are the float ones where `right` says so of rules and level, else zeros."""
    asked: list[tuple[list[str], int | None]] = []

    def simulated(toolchain: str, arguments: dict[str, Any], probe: Probe, job: Path, *_: Any) -> Any:
        rules, level = (
            arguments.get("disable_rules", []),
            arguments.get("config", {}).get("optimization_level"),
        )
        asked.append((rules, level))
        expected = np.load(probe.outputs)
        found = expected if right(rules, level) else np.zeros_like(expected)
        return Build({"toolkit": "made up"}, LOG, ()), found

    monkeypatch.setattr(trials, "simulated", simulated)
    monkeypatch.setattr(repair, "parse_log", lambda log: SimpleNamespace(cycles=100))
    monkeypatch.setattr(trials, "cost", lambda log, board: (1.0,))
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
    toolkit(monkeypatch, right)
    proof, _ = repair.prove(*asked(random_vit(embed_dim=48), 32, tmp_path), ARGUMENTS, Quiet())
    assert proof.right and proof.options == options and proof.cycles == (100, 100)


def test_what_mends_a_part_but_not_the_whole_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toolkit(monkeypatch, lambda rules, level: True)
    whole, parts = str((tmp_path / "model.onnx").resolve()), list[str]()

    def simulated(toolchain: str, arguments: dict[str, Any], probe: Probe, job: Path, *_: Any) -> Any:
        of_whole = arguments.get("model", whole) == whole
        parts.extend(() if of_whole else (arguments["model"],))
        right = ("rule_b" if of_whole else "rule_a") in arguments.get("disable_rules", [])
        expected = np.load(probe.outputs)
        return Build({"toolkit": "made up"}, LOG, ()), expected if right else np.zeros_like(expected)

    monkeypatch.setattr(trials, "simulated", simulated)
    proof, _ = repair.prove(*asked(random_vit(embed_dim=48), 32, tmp_path), ARGUMENTS, Quiet())
    assert proof.right and proof.left_out == ("rule_b",) and parts
    assert not any(Path(each).exists() for each in parts)


def test_rules_that_a_plan_leaves_out_stay_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toolkit(monkeypatch, lambda rules, level: {"mine", "rule_b"} <= set(rules))
    request, probe = asked(random_vit(embed_dim=48), 32, tmp_path)
    proof, _ = repair.prove(request, probe, ARGUMENTS | {"disable_rules": ["mine"]}, Quiet())
    assert proof.options == {"disable_rules": ["mine", "rule_b"]} and proof.left_out == ("rule_b",)


def test_the_next_model_of_the_same_shape_starts_with_what_mended_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builds = toolkit(monkeypatch, lambda rules, level: "rule_b" in rules)
    # As built, a part of it, three to find what mends that, on the whole, at last; then as built, known, at last.
    for seed, count in ((0, 7), (1, 3)):
        folder = tmp_path / str(seed)
        folder.mkdir()
        builds.clear()
        proof, _ = repair.prove(*asked(random_vit(seed, embed_dim=48), 32, folder), ARGUMENTS, Quiet())
        assert proof.left_out == ("rule_b",) and proof.builds == len(builds) == count


def test_a_build_that_never_ends_is_one_that_died_and_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real: without 18 rules of a small ViT's, fuse_rs_conv undoes and redoes its own step."""
    toolkit(monkeypatch, lambda rules, level: "rule_b" in rules)
    quick = trials.simulated

    def simulated(*given: Any) -> Any:
        timeout_s = given[5]
        if len(given[1].get("disable_rules", [])) > 1:
            assert timeout_s == repair.AT_LEAST  # a made-up build as it was takes no time
            raise ToolchainError("rknn", f"no result after {timeout_s:.0f} s", "")
        return quick(*given)

    monkeypatch.setattr(trials, "simulated", simulated)
    proof, _ = repair.prove(*asked(random_vit(embed_dim=48), 32, tmp_path), ARGUMENTS, Quiet())
    assert proof.right and proof.left_out == ("rule_b",)


def test_what_nothing_mends_leaves_a_folder_for_the_vendor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builds = toolkit(monkeypatch, lambda rules, level: False)
    proof, _ = repair.prove(*asked(random_vit(embed_dim=48), 32, tmp_path), ARGUMENTS, Quiet())
    assert not proof.right and proof.options == {}
    assert [level for _, level in builds if level is not None] == [
        2,
        1,
        0,
    ] * 2  # of a part, then of the whole
    names = {path.name for path in (tmp_path / "for-vendor").iterdir()}
    assert names == {"model.onnx", "inputs.npy", "expected.npy", "found.npy", "log.txt", "versions.json"}
    assert np.load(tmp_path / "for-vendor" / "inputs.npy").shape == (4, 3, 32, 32)
    assert not [path for name in ("cut*", "few*", "trial*") for path in tmp_path.rglob(name)]


@pytest.mark.parametrize(("log", "mended"), [(LOG, True), ("E     no such operation", False)])
def test_a_build_that_dies_without_a_word_on_why_is_searched_where_rules_had_been_applied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: str, mended: bool
) -> None:
    builds = toolkit(monkeypatch, lambda rules, level: True)
    quick = trials.simulated

    def simulated(*given: Any) -> Any:
        found = quick(*given)
        if "rule_b" not in given[1].get("disable_rules", []):
            folder = given[3] / "build-0"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "log.txt").write_text(log)
            raise ToolFailed("rknn", "segmentation fault", "")
        return found

    monkeypatch.setattr(trials, "simulated", simulated)
    request, probe = asked(random_vit(embed_dim=48), 32, tmp_path)
    if not mended:
        with pytest.raises(ToolFailed, match="segmentation fault"):
            repair.prove(request, probe, ARGUMENTS, Quiet())
        assert len(builds) == 1
        return
    proof, _ = repair.prove(request, probe, ARGUMENTS, Quiet())
    assert proof.right and proof.left_out == ("rule_b",) and proof.reason == "segmentation fault"
    assert proof.cycles is None  # there is nothing to compare with
    assert not list(tmp_path.glob("few*"))
