"""Every sort of model that people bring, through the vendors' real toolchains."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgevit.toolchains import environment
from tests.conversion.conftest import Project
from tests.towers import TOWERS, written

pytestmark = [pytest.mark.toolchain, pytest.mark.slow]
IMAGES = ("--calibration", "images/calibration", "--validation", "images/validation")
TARGETS = ("--target", "rk3588", "--target", "tflite", "--target", "onnx")


@pytest.fixture(autouse=True)
def installed() -> None:
    pytest.importorskip("transformers")
    for name in ("rknn", "litert"):
        if environment.state(name).problem:
            pytest.skip(f"edgevit toolchain install {name}")


@pytest.mark.parametrize("name", list(TOWERS))
def test_it_goes_through_every_backend_in_float(project: Project, name: str) -> None:
    written(project.folder / "tower", name)
    project.run("convert", "tower", *IMAGES, *TARGETS, "--precision", "float", "--out", "run")
    manifest = project.manifest("run")
    kinds = [kind for kind, _ in TOWERS[name].gives.values()]
    assert [each["kind"] for each in manifest["model"]["outputs"]] == kinds
    found = {each["target"]: each["accuracy"] for each in manifest["results"]}
    assert set(found) == {"rk3588", "tflite", "onnx"}
    for accuracy in found.values():
        assert accuracy["kind"] == kinds[0] and accuracy["cosine"] > 0.999
        assert all(each["cosine"] > 0.999 for each in accuracy["others"].values())


@pytest.mark.parametrize("name", ["ViTModel", "Dinov2Model"])
def test_an_embedding_leaves_the_npu_in_16_bits_and_keeps_its_angle(project: Project, name: str) -> None:
    """A plain ViT's by its own tensors, any other model's by those of its graph."""
    written(project.folder / "tower", name)
    project.run("convert", "tower", *IMAGES, "--target", "rk3588", "--out", "run")
    (result,) = project.manifest("run")["results"]
    assert result["plan"]["sixteen_bit"] and result["accuracy"]["cosine"] > 0.99


def test_the_plain_toolkit_is_one_option_away(project: Project) -> None:
    written(Path(project.folder) / "tower", "ViTModel")
    plain = ("--recipe", "vendor-default", "--search-minutes", "0", "--out", "run")
    project.run("convert", "tower", *IMAGES, "--target", "rk3588", *plain)
    (result,) = project.manifest("run")["results"]
    assert not result["plan"]["sixteen_bit"] and result["accuracy"]["kind"] == "embedding"
